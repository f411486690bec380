"""Reads the numbers that call frame information is made of."""

from __future__ import annotations

from typing import Final

__all__ = ["OMITTED", "Cursor", "Malformed"]

_WORD: Final = (1 << 64) - 1
_LONGEST_LEB128: Final = 16
"""Bytes. Ten hold 64 bits; assemblers pad to a few more at most."""

# LSB Core 5.0, 10.5.1, "DWARF Exception Header Encoding".
OMITTED: Final = 0xFF
_INDIRECT: Final = 0x80
_PC_RELATIVE: Final = 0x10
_DATA_RELATIVE: Final = 0x30
_FIXED_SIZES: Final = {0x02: 2, 0x03: 4, 0x04: 8, 0x0A: 2, 0x0B: 4, 0x0C: 8}


class Malformed(Exception):
    """Call frame information that cannot be read; says why in a few words."""


class Cursor:
    """A place in bytes. Every read is within them or raises `Malformed`."""

    __slots__ = ("at", "data", "end", "word")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None, word: int = 8) -> None:
        """`word`: bytes in an address."""
        self.data = data
        self.word = word
        self.at = at
        self.end = len(data) if end is None else min(end, len(data))

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def take(self, size: int) -> bytes:
        start = self.at
        if size < 0 or start + size > self.end:
            raise Malformed("call frame information is cut short")
        self.at = start + size
        return self.data[start : self.at]

    def rest(self) -> bytes:
        return self.take(self.end - self.at)

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.unsigned(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value & _WORD
            if shift > 7 * _LONGEST_LEB128:
                raise Malformed("a number in call frame information has no end")

    def sleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.unsigned(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if byte & 0x40:
                    value -= 1 << shift
                value &= _WORD
                return value - (1 << 64) if value >> 63 else value
            if shift > 7 * _LONGEST_LEB128:
                raise Malformed("a number in call frame information has no end")

    def string(self, limit: int = 32) -> bytes:
        end = self.data.find(b"\0", self.at, min(self.end, self.at + limit))
        if end < 0:
            raise Malformed("a string in call frame information has no end")
        text = self.data[self.at : end]
        self.at = end + 1
        return text

    def pointer(self, encoding: int, address: int = 0, data_base: int = 0) -> int:
        """An encoded pointer; `address` is that of byte 0 of the data."""
        here = address + self.at
        form = encoding & 0x0F
        size = self.word if form == 0 else _FIXED_SIZES.get(form)
        if size is not None:
            value = self.signed(size) if form & 0x08 else self.unsigned(size)
        elif form == 0x01:
            value = self.uleb()
        elif form == 0x09:
            value = self.sleb()
        else:
            raise Malformed(f"an unknown pointer encoding {encoding:#x}")
        base = encoding & 0x70
        if encoding & _INDIRECT or base not in (0, _PC_RELATIVE, _DATA_RELATIVE):
            raise Malformed(f"an unknown pointer encoding {encoding:#x}")
        if base == _PC_RELATIVE:
            value += here
        elif base == _DATA_RELATIVE:
            value += data_base
        return value & _WORD if self.word == 8 else value & 0xFFFFFFFF
