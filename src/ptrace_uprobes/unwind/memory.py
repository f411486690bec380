"""The stack's memory, read in bulk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["StackMemory", "Unreadable"]

_WINDOW: Final = 8192
"""Bytes: twenty frames of most programs; reading them costs little more than reading a word."""
_EMPTY: Final = memoryview(b"").cast("Q")


class Unreadable(Exception):
    """Nothing is mapped at this address."""

    def __init__(self, address: int) -> None:
        super().__init__(address)
        self.address = address


class StackMemory:
    """A window on it, moved where it is needed. Valid while the thread stands still."""

    __slots__ = ("_read", "base", "top", "words")

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self.base = self.top = 0
        self.words: memoryview = _EMPTY
        """What is from `base` up to `top`."""

    def word(self, address: int) -> int:
        """The 8 bytes at `address`; raises `Unreadable`."""
        if address & 7:
            return self.number(address, 8)
        if not self.base <= address < self.top:
            self._move(address)
        word: int = self.words[address - self.base >> 3]
        return word

    def number(self, address: int, size: int) -> int:
        """An unsigned number of any size; raises `Unreadable`."""
        if size == 8 and not address & 7:
            return self.word(address)
        data = self.bytes_at(address, size)
        if len(data) < size:
            raise Unreadable(address)
        return int.from_bytes(data, "little")

    def bytes_at(self, address: int, size: int) -> bytes:
        """Up to `size` bytes."""
        return self._read(address, size) if 0 <= address < 1 << 63 else b""

    def _move(self, address: int) -> None:
        data = self.bytes_at(address, _WINDOW)
        size = len(data) & ~7
        if size == 0:
            raise Unreadable(address)
        self.base, self.top = address, address + size
        self.words = memoryview(data)[:size].cast("Q")
