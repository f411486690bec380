"""What a walk up the stack has found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Frame", "Stack"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One function that has not returned."""

    address: int
    """Where it goes on: the instruction about to be executed, or a return address."""
    symbol: str | None
    """`qsort+0x1c`, demangled; `libc.so.6+0x3c050` where there is no symbol; None outside of
    every module."""
    module: str | None
    """The file's name: `libc.so.6`."""
    is_signal: bool = False
    """The kernel made this frame to deliver a signal; the next one is what it interrupted."""

    def __str__(self) -> str:
        name = self.symbol or "??"
        return f"{self.address:#018x} {name}" + (f" ({self.module})" if self.module else "")


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames, innermost first."""

    frames: tuple[Frame, ...]
    cut: str | None = None
    """Why it ends before the outermost frame; None if it does not."""

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]
