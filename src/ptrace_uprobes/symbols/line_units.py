"""The units of `.debug_line`: which source files each is about (DWARF 5, 6.2.4; versions 2 to 5).

Only the heads are read here; a unit's program is run where a line of one of its files is asked
for (`line_program`).
"""

from __future__ import annotations

import posixpath
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["LineUnit", "read_uleb", "units_of"]

_PATH: Final = 1
_DIRECTORY: Final = 2
_STRINGS: Final = {0x08: "inline", 0x0E: "strp", 0x1F: "line_strp"}
_FIXED: Final = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}
_UDATA: Final = 0x0F
_BLOCK: Final = 0x09
_MOST_ENTRIES: Final = 1 << 20
"""Of all tables of a section: files may claim what they like."""


@dataclass(frozen=True, slots=True)
class LineUnit:
    """The head of one unit, and where its program is."""

    start: int
    end: int
    """The program's bytes in the section."""
    minimum_size: int
    default_is_stmt: bool
    line_base: int
    line_range: int
    opcode_base: int
    operands: bytes
    """How many each standard opcode has."""
    files: dict[int, str]
    """Paths by the number that the program calls a file by."""


class _Damaged(Exception):
    """A unit that cannot be read; the section says where the next one begins."""


def read_uleb(data: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends; raises `IndexError` past the data."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a number of more than 64 bits")


def units_of(section: bytes, line_strings: bytes, strings: bytes) -> Iterator[LineUnit]:
    """The units that can be read."""
    left = [_MOST_ENTRIES]
    at = 0
    while at + 4 <= len(section):
        (length,) = struct.unpack_from("<I", section, at)
        at, wide = at + 4, False
        if length == 0xFFFFFFFF and at + 8 <= len(section):
            (length,) = struct.unpack_from("<Q", section, at)
            at, wide = at + 8, True
        end = at + length
        if end > len(section):
            return
        try:
            yield _Head(section, at, end, wide, line_strings, strings, left).unit()
        except (_Damaged, IndexError, struct.error):
            pass  # the others may be whole
        at = end


class _Head:
    """Reads one head, from `at` on."""

    def __init__(
        self,
        section: bytes,
        at: int,
        end: int,
        wide: bool,
        line_strings: bytes,
        strings: bytes,
        left: list[int],
    ) -> None:
        self._data = section
        self._at = at
        self._end = end
        self._wide = wide
        self._tables = {"line_strp": line_strings, "strp": strings}
        self._left = left

    def unit(self) -> LineUnit:
        version = self._number(2)
        if not 2 <= version <= 5:
            raise _Damaged
        if version == 5:
            self._at += 2  # the sizes of an address and of a segment selector
        size = self._number(8 if self._wide else 4)
        start = self._at + size
        if start > self._end:
            raise _Damaged
        minimum_size = self._number(1)
        if version >= 4:
            self._at += 1  # operations of an instruction: for machines that have several
        default_is_stmt = bool(self._number(1))
        line_base = (self._number(1) ^ 0x80) - 0x80
        line_range, opcode_base = self._number(1), self._number(1)
        if not line_range or not opcode_base:
            raise _Damaged
        operands = self._data[self._at : self._at + opcode_base - 1]
        self._at += opcode_base - 1
        files = self._files_5() if version == 5 else self._files_4()
        return LineUnit(
            start,
            self._end,
            minimum_size,
            default_is_stmt,
            line_base,
            line_range,
            opcode_base,
            operands,
            files,
        )

    def _number(self, size: int) -> int:
        data = self._data[self._at : self._at + size]
        if len(data) < size:
            raise _Damaged
        self._at += size
        return int.from_bytes(data, "little")

    def _uleb(self) -> int:
        value, self._at = read_uleb(self._data, self._at)
        return value

    def _count(self) -> None:
        self._left[0] -= 1
        if self._left[0] < 0:
            raise _Damaged

    def _string(self, table: bytes, at: int) -> str:
        end = table.find(b"\0", at)
        if end < 0 or at > len(table):
            raise _Damaged
        return table[at:end].decode("utf-8", "surrogateescape")

    def _inline(self) -> str:
        text = self._string(self._data, self._at)
        self._at = self._data.index(b"\0", self._at) + 1
        return text

    def _files_4(self) -> dict[int, str]:
        # Directory 0 is where the compiler ran, which is said elsewhere.
        directories = [""]
        while directory := self._inline():
            self._count()
            directories.append(directory)
        files: dict[int, str] = {}
        while name := self._inline():
            self._count()
            place = self._uleb()
            self._at = read_uleb(self._data, read_uleb(self._data, self._at)[1])[1]  # time, size
            if place < len(directories):
                files[len(files) + 1] = posixpath.join(directories[place], name)
            else:
                files[len(files) + 1] = name
        return files

    def _files_5(self) -> dict[int, str]:
        directories = [path for path, _ in self._entries()]
        files = {}
        for number, (name, place) in enumerate(self._entries()):
            directory = directories[place] if place < len(directories) else ""
            if place and directories and not directory.startswith("/"):
                directory = posixpath.join(directories[0], directory)
            files[number] = posixpath.join(directory, name)
        return files

    def _entries(self) -> list[tuple[str, int]]:
        """A table of version 5: it says itself what its columns are."""
        columns = [(self._uleb(), self._uleb()) for _ in range(self._number(1))]
        rows = []
        for _ in range(self._uleb()):
            self._count()
            name, place = "", 0
            for content, form in columns:
                value = self._value(form)
                if content == _PATH and isinstance(value, str):
                    name = value
                elif content == _DIRECTORY and isinstance(value, int):
                    place = value
            rows.append((name, place))
        return rows

    def _value(self, form: int) -> str | int:
        kind = _STRINGS.get(form)
        if kind == "inline":
            return self._inline()
        if kind is not None:
            return self._string(self._tables[kind], self._number(8 if self._wide else 4))
        if form in _FIXED:
            return self._number(_FIXED[form])
        if form == _UDATA:
            return self._uleb()
        if form == _BLOCK:
            size = self._uleb()
            self._at += size
            return 0
        raise _Damaged
