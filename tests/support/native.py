"""Runs machine code on the processor from a given state: the truth about instructions.

`NativeRunner` drives tests/targets/run_code.c, whose layout the constants repeat.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.errors import MemoryFault
from tests.support.build import build_target

__all__ = [
    "ARENA_SIZE",
    "BASES",
    "DATA",
    "FAR_BASE",
    "REGISTERS",
    "SITE",
    "SLOT",
    "STACK",
    "WINDOW",
    "Code",
    "Machine",
    "NativeRunner",
    "Outcome",
    "runner_for",
]

REGISTERS = (
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags"),
)
BASES = (0x1000_0000, 0x9000_0000, 0x2000_0000_0000)
FAR_BASE = 0x7000_0000_0000
"""Has the same arenas, out of reach from those of BASES."""
ARENA_SIZE = 0x10000
WINDOW = 4096
SITE, SLOT, DATA, STACK = 0, 0x100_0000, 0x200_0000, 0x300_0000
"""Distances of the arenas from a base. SITE and SLOT hold int3 but for what a run puts there;
DATA and STACK are one page each, with nothing mapped beside them."""

_MAX_STEPS = 4
_REQUEST = struct.Struct(f"<20Q QQ64s QQ64s 3Q 128s 256s {WINDOW}s {WINDOW}s")
_REPLY = struct.Struct(f"<iiQ 18Q Q {18 * _MAX_STEPS}Q 16s 512s 256s {WINDOW}s {WINDOW}s")
_MASK = (1 << 64) - 1


class _Printer(Protocol):
    def text(self, text: str) -> None: ...


@dataclass(slots=True, repr=False)
class Machine:
    """A thread's state as the planner's `Registers` and `TraceeMemory`; mutable."""

    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rdi: int = 0
    rsi: int = 0
    rbp: int = 0
    rbx: int = 0
    rdx: int = 0
    rax: int = 0
    rcx: int = 0
    rsp: int = 0
    rip: int = 0
    eflags: int = 0x202
    fs_base: int = 0
    gs_base: int = 0
    arch: Architecture = X86_64
    """I386: its code runs in 32-bit mode, in the low halves of the registers."""
    base: int = BASES[0]
    data: bytes = bytes(WINDOW)
    stack: bytes = bytes(WINDOW)
    x87: bytes = bytes(128)
    xmm: bytes = bytes(256)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:#x}" for name, value in self.registers().items())
        return f"Machine({values}, base={self.base:#x})"

    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:
        """Hypothesis would write out every field."""
        printer.text(repr(self))

    def registers(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in REGISTERS}

    def read(self, address: int, size: int) -> bytes:
        at, _, content = self._window(address, size)
        return content[address - at : address - at + size]

    def write(self, address: int, data: bytes) -> None:
        at, name, content = self._window(address, len(data))
        offset = address - at
        setattr(self, name, content[:offset] + data + content[offset + len(data) :])

    def _window(self, address: int, size: int) -> tuple[int, str, bytes]:
        for at, name, content in (
            (self.base + DATA, "data", self.data),
            (self.base + STACK, "stack", self.stack),
        ):
            if at <= address and address + size <= at + WINDOW:
                return at, name, content
        raise MemoryFault(address, size)

    def copy(self) -> Machine:
        return replace(self)


@dataclass(frozen=True, slots=True)
class Code:
    """Bytes to put at an address of a SITE or SLOT arena."""

    at: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a run ended, and in which state."""

    signal: int
    signal_code: int
    fault_address: int
    registers: dict[str, int]
    stepped: tuple[dict[str, int], ...] = field(repr=False)
    """The registers after each single step within the range asked for."""
    selectors: bytes
    """DS, ES, FS, GS, CS, SS."""
    fxsave: bytes = field(repr=False)
    ymm_high: bytes = field(repr=False)
    data: bytes = field(repr=False)
    stack: bytes = field(repr=False)


_NO_32_BIT_CODE = 4  # exit status of run_code


def runner_for(arch: Architecture) -> NativeRunner:
    """A runner, or a skip where the kernel runs no code of that mode."""
    runner = NativeRunner()
    try:
        runner.run(Machine(arch=arch, rip=BASES[0], rsp=BASES[0] + STACK + 2048))
    except RuntimeError:
        if runner.status != _NO_32_BIT_CODE:
            raise
        pytest.skip("this kernel runs no 32-bit code (CONFIG_IA32_EMULATION)")
    return runner


class NativeRunner:
    """A child process that runs code; use as a context manager."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [build_target("run_code.c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def status(self) -> int | None:
        """The child's exit status, if it has ended."""
        return self._child.poll()

    def __enter__(self) -> NativeRunner:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()

    def run(self, machine: Machine, *codes: Code, step: tuple[int, int] = (0, 0)) -> Outcome:
        """Run from `machine`'s RIP until a signal; `step`: single-step in this range."""
        places: list[int | bytes] = []
        for code in (*codes, Code(0, b""), Code(0, b""))[:2]:
            places += [code.at, len(code.content), code.content]
        request = _REQUEST.pack(
            *(value & _MASK for value in machine.registers().values()),
            machine.gs_base,
            0x33 if machine.arch.elf_class == 64 else 0x23,
            *places,
            machine.base,
            *step,
            machine.x87,
            machine.xmm,
            machine.data,
            machine.stack,
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(request)
        self._child.stdin.flush()
        answer = self._child.stdout.read(_REPLY.size)
        if len(answer) != _REPLY.size:
            raise RuntimeError(f"run_code ended with {self._child.wait()}")
        signal, code_, fault, *rest = _REPLY.unpack(answer)
        count = rest[18]
        steps = [rest[19 + 18 * i : 37 + 18 * i] for i in range(count)]
        return Outcome(
            signal,
            code_,
            fault,
            dict(zip(REGISTERS, rest[:18], strict=True)),
            tuple(dict(zip(REGISTERS, values, strict=True)) for values in steps),
            *rest[-5:],
        )
