"""What `--request` has a hit record, read from its thread once for any format to print."""

from __future__ import annotations

from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.probe import Hit

__all__ = ["data_of"]


def data_of(hit: Hit, length: int) -> bytes | None:
    """`length` bytes at the address in the first argument; None if they cannot be read."""
    try:
        return hit.read(hit.argument(0), length)
    except MemoryFault:
        return None
