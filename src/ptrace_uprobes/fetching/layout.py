"""What of the probed place decides where a fetcharg looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import X86_64

__all__ = ["NOWHERE", "Layout"]

NOWHERE = 1 << 63
"""An address that no program can have mapped."""
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the probed file lies in one address space."""

    file_base: int | None = None
    """The probed place's address less its offset in the file. `@+OFFSET` is `file_base + OFFSET`,
    as in the kernel: it does not look which segment holds the byte."""
    mapped_at: Callable[[int], int | None] | None = None
    """What says otherwise where it knows; asked before `file_base`."""
    architecture: Architecture = X86_64

    def to_virtual(self, file_offset: int) -> int:
        """The address of `@+file_offset`; `NOWHERE` if the place is in no file."""
        if self.mapped_at is not None:
            address = self.mapped_at(file_offset)
            if address is not None:
                return address & _MASK
        if self.file_base is None:
            return NOWHERE
        return (self.file_base + file_offset) & _MASK
