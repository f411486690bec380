"""The general registers of a hit, as its handler sees and changes them."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import I386, X86_64, of_code_segment
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import UserRegs

__all__ = ["I386Registers", "Registers", "registers_of"]


class Registers(UserRegs):  # type: ignore[misc]  # the binding has no type information
    """The general registers at a hit, by their x86-64 names; assigning one marks the set dirty.

    `rip` is the site's address. Assign it to go elsewhere instead of executing the
    displaced instruction.
    """

    architecture: Architecture = X86_64
    dirty = False
    """Something was assigned."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "dirty":
            if name not in ptrace_calls.USER_OFFSETS:
                raise AttributeError(f"there is no register {name!r}")
            self.__dict__["dirty"] = True
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        values = (f"{name}={value:#x}" for name, value in self.as_dict().items())
        return f"{type(self).__name__}({', '.join(values)})"

    def as_dict(self) -> dict[str, int]:
        """The values by the architecture's own names, in the order in which they are shown."""
        return {name: getattr(self, kernel) for name, kernel in self.architecture.registers}


_WORDS: Final = ctypes.sizeof(UserRegs) // 4
_ZEROES: Final = memoryview(bytes(4 * (_WORDS // 2))).cast("I")


class I386Registers(Registers):
    """Those of a 32-bit program, by their i386 names (`eax`, `esp`, `eip` ...) and also by the
    x86-64 names of the registers that they are the lower halves of."""

    architecture = I386

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(_KERNEL_NAMES.get(name, name), value)

    def __getattr__(self, name: str) -> int:
        kernel = _KERNEL_NAMES.get(name)
        if kernel is None:
            raise AttributeError(f"there is no register {name!r}")
        value: int = getattr(self, kernel)
        return value

    def clear_upper_halves(self) -> None:
        """A system call's negative result may still stand there, and nobody can see it."""
        memoryview(self).cast("B").cast("I")[1::2] = _ZEROES


_KERNEL_NAMES: Final = {name: kernel for name, kernel in I386.registers if name != kernel}


def registers_of(tid: int) -> Registers:
    """The registers of a stopped thread, of the kind that the code has which it runs."""
    registers = Registers()
    ptrace_calls.get_registers(tid, registers)
    if of_code_segment(registers.cs) is X86_64:
        return registers
    narrow: I386Registers = I386Registers.from_buffer(registers)
    narrow.clear_upper_halves()
    return narrow
