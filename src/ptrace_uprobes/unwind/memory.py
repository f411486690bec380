"""The stack's memory, read in bulk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

__all__ = ["StackMemory", "Unreadable"]

_WINDOW: Final = 8192
"""Bytes: twenty frames of most programs; reading them costs little more than reading a word."""
_FORMATS: Final[dict[int, Literal["I", "Q"]]] = {4: "I", 8: "Q"}


class Unreadable(Exception):
    """Nothing is mapped at this address."""

    def __init__(self, address: int) -> None:
        super().__init__(address)
        self.address = address


class StackMemory:
    """A window on it, moved where it is needed. Valid while the thread stands still."""

    __slots__ = ("_format", "_read", "_size", "base", "top", "words")

    def __init__(self, read: Callable[[int, int], bytes], word_size: int = 8) -> None:
        self._read = read
        self._size = word_size
        self._format = _FORMATS[word_size]
        self.base = self.top = 0
        self.words: memoryview = memoryview(b"").cast(self._format)
        """What is from `base` up to `top`."""

    def word(self, address: int) -> int:
        """The word at `address`; raises `Unreadable`."""
        size = self._size
        if address & size - 1:
            return self.number(address, size)
        if not self.base <= address < self.top:
            self._move(address)
        word: int = self.words[(address - self.base) // size]
        return word

    def number(self, address: int, size: int) -> int:
        """An unsigned number of any size; raises `Unreadable`."""
        if size == self._size and not address & size - 1:
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
        size = len(data) & -self._size
        if size == 0:
            raise Unreadable(address)
        self.base, self.top = address, address + size
        self.words = memoryview(data)[:size].cast(self._format)
