"""What `--request` has a hit record, read from its thread once for any format to print."""

from __future__ import annotations

from typing import Final

from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.probe import Hit

__all__ = ["REGISTERS", "data_of"]

REGISTERS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("rip", "eflags"),
)
"""The general registers, in the order in which they are printed."""


def data_of(hit: Hit, length: int) -> bytes | None:
    """`length` bytes at the address in the first argument; None if they cannot be read."""
    try:
        return hit.read(hit.argument(0), length)
    except MemoryFault:
        return None
