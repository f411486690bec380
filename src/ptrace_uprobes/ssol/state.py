"""What an emulator needs of a stopped thread."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Registers", "TraceeMemory"]


class TraceeMemory(Protocol):
    """The memory of a stopped tracee, as the program sees it (no traps)."""

    def read(self, address: int, size: int) -> bytes:
        """Raises `MemoryFault`."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Raises `MemoryFault`, and then has written nothing."""
        ...


class Registers(Protocol):
    """The general registers; `user_regs_struct` of sys/user.h has this shape."""

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rip: int
    eflags: int
    rsp: int
    fs_base: int
    gs_base: int
