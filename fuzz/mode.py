"""The two modes that instructions are tried in: 64-bit and 32-bit code, each in its own process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import I386, X86_64

__all__ = ["NARROW", "WIDE", "Mode", "mode_of"]


@dataclass(frozen=True, slots=True)
class Mode:
    """What differs; the bases repeat those of fuzz/harness_64.h and fuzz/harness_32.h."""

    bits: int
    architecture: Architecture
    flags: tuple[str, ...]
    """The compiler's, for a harness of this mode."""
    bases: tuple[int, ...]
    """Of sites and their slots, data and stacks."""
    far_base: int
    """Has the same arenas: out of reach from `bases` in 64-bit code, beyond the wrap in 32-bit."""
    nowhere: tuple[int, ...]
    """Addresses without memory; in 64-bit code some that are not canonical."""

    @property
    def mask(self) -> int:
        return (1 << self.bits) - 1

    @property
    def word(self) -> int:
        """Bytes that a push takes."""
        return self.bits // 8

    @property
    def all_bases(self) -> tuple[int, ...]:
        return (*self.bases, self.far_base)


WIDE: Final = Mode(
    bits=64,
    architecture=X86_64,
    flags=("-mno-red-zone",),
    bases=(0x1000_0000, 0x9000_0000, 0x2000_0000_0000),
    far_base=0x7000_0000_0000,
    nowhere=(0, 0x8000 << 32, 0x7FFF_FFFF_FFFC),
)
NARROW: Final = Mode(
    bits=32,
    architecture=I386,
    flags=("-m32",),
    bases=(0x1000_0000, 0x9000_0000, 0xD000_0000),
    far_base=0x5000_0000,
    nowhere=(0, 0x7FFF_FFFC, 0xFFFF_E000),
)


def mode_of(bits: int) -> Mode:
    return WIDE if bits == 64 else NARROW
