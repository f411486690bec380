"""Distinct types for distinct address spaces, so that a mix-up is a type error.

A number that the kernel or a register gave is a `VirtAddr`; what an ELF file says
(before a load bias is added) is an `ElfAddr`; a position in a file is a `FileOffset`.
"""

from __future__ import annotations

from typing import NewType

__all__ = ["ElfAddr", "FileOffset", "VirtAddr"]

VirtAddr = NewType("VirtAddr", int)
"""An address in a live address space."""

ElfAddr = NewType("ElfAddr", int)
"""An address as an ELF file states it: a `VirtAddr` less the module's load bias."""

FileOffset = NewType("FileOffset", int)
"""A byte position in a file."""
