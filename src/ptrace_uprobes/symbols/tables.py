"""One symbol table of one file, read in bulk.

A name is searched for as bytes in the string table, and then only the entries that point at
it are looked at: one name of a file with 100,000 symbols costs two searches of bytes and no
object per symbol. Tables are read when they are needed and not kept. When name after name is
asked for, an index pays: 8 bytes a symbol, made for the price of some fifteen searches.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.dynamic import Range
from ptrace_uprobes.symbols.source import Source, chunks
from ptrace_uprobes.symbols.versions import VersionTable

__all__ = [
    "STB_LOCAL",
    "STT_FUNC",
    "STT_GNU_IFUNC",
    "STT_NOTYPE",
    "STT_OBJECT",
    "Entry",
    "SymbolTable",
]

STT_NOTYPE: Final = 0
STT_OBJECT: Final = 1
STT_FUNC: Final = 2
STT_GNU_IFUNC: Final = 10
STB_LOCAL: Final = 0

_SHN_LORESERVE: Final = 0xFF00
_SHN_XINDEX: Final = 0xFFFF

_LONGEST_NAME: Final = 1 << 16
"""Mangled C++ names grow long, but no name of a program that was ever built is longer."""
_FEW: Final = 16
"""Up to so many string offsets, searching for each beats looking at every entry."""
_TOO_MANY: Final = 1024
"""With so many string offsets that end in the name, comparing each symbol's is cheaper."""

_SEARCHES: Final = 8
"""So many names are searched for before an index is made."""
_MOST_INDEXED: Final = 1 << 20
_MOST_NAME_BYTES: Final = 1 << 27
"""On top of four times the string table: the names of a true file are hardly longer than that."""
_NUMBER_BITS: Final = 20
_HASH: Final = (1 << 44) - 1

# name, value, size, info, other, section index; and name, info, other, index, value, size
_ENTRY = {32: struct.Struct("<IIIBBH"), 64: struct.Struct("<IBBHQQ")}


class Entry(NamedTuple):
    """A defined symbol, as the table has it. A tuple: globs make thousands."""

    number: int
    """Its place in the table."""
    name: bytes
    """With its version, in a static table: `memcpy@@GLIBC_2.14`."""
    info: int
    value: int
    size: int

    @property
    def kind(self) -> int:
        return self.info & 15

    @property
    def binding(self) -> int:
        return self.info >> 4


class SymbolTable:
    """`.symtab` or `.dynsym`, with its strings and versions."""

    def __init__(
        self,
        source: Source,
        elf_class: int,
        symbols: Range,
        strings: Range,
        read_versions: Callable[[], VersionTable | None] | None = None,
    ) -> None:
        self._source = source
        self._elf_class = elf_class
        self._layout = _ENTRY[elf_class]
        self._symbols = Range(symbols.offset, symbols.size - symbols.size % self._layout.size)
        self._strings = strings
        self._read_versions = read_versions
        self._searches = 0
        self._index: array[int] | None = None

    def versions(self) -> VersionTable | None:
        return self._read_versions() if self._read_versions is not None else None

    def rows(self) -> Iterator[tuple[int, int, int, int, int]]:
        """(index, string offset, info, value, size) of each defined symbol.

        Hot for globs and for the index of functions: plain integers, no object of ours.
        """
        layout = self._layout
        index = 0
        for _, chunk in chunks(self._source, self._symbols.offset, self._symbols.size, layout.size):
            if self._elf_class == 64:
                for name, info, _, section, value, size in layout.iter_unpack(chunk):
                    if 0 < section < _SHN_LORESERVE or section == _SHN_XINDEX:
                        yield index, name, info, value, size
                    index += 1
            else:
                for name, value, size, info, _, section in layout.iter_unpack(chunk):
                    if 0 < section < _SHN_LORESERVE or section == _SHN_XINDEX:
                        yield index, name, info, value, size
                    index += 1

    def strings(self) -> bytes:
        return self._source.read(self._strings.offset, self._strings.size)

    def entry(self, index: int) -> Entry | None:
        """The symbol of this index, if it is defined and may be code."""
        size = self._layout.size
        return self._entry(index, self._source.read(self._symbols.offset + index * size, size))

    def named(self, name: bytes) -> Iterator[Entry]:
        """The symbols of this name, with any version.

        A static table has versions in the names: `memcpy@GLIBC_2.2.5`, `memcpy@@GLIBC_2.14`.
        """
        if self._is_indexed() and b"@" not in name:
            yield from self._named_by_index(name)
            return
        offsets = self._string_offsets(name)
        if offsets is None:
            yield from self._named_by_comparing(name)
        elif not offsets:
            return
        elif len(offsets) <= _FEW:
            yield from self._named_by_searching(offsets)
        else:
            for index, string, _, _, _ in self.rows():
                if string in offsets and (entry := self.entry(index)) is not None:
                    yield entry

    def matching(self, pattern: re.Pattern[bytes], kinds: frozenset[int]) -> Iterator[Entry]:
        """The symbols of these kinds whose name, with any version cut off, matches."""
        strings = self.strings()
        left = _MOST_NAME_BYTES + 4 * len(strings)
        find, match = strings.find, pattern.match
        for index, string, info, value, size in self.rows():
            if info & 15 in kinds:
                end = find(b"\0", string, string + _LONGEST_NAME)
                left -= end - string if end > 0 else _LONGEST_NAME
                if left < 0:
                    raise UnreadableElf(self._source.name, "its symbols have too long names")
                name = strings[string:end] if end > string else b""
                if name and match(name.partition(b"@")[0]):
                    yield Entry(index, name, info, value, size)

    def names(self, kinds: frozenset[int]) -> Iterator[bytes]:
        """The names of all symbols of these kinds."""
        strings = self.strings()
        left = _MOST_NAME_BYTES + 4 * len(strings)
        for _, string, info, _, _ in self.rows():
            if info & 15 in kinds:
                end = strings.find(b"\0", string, string + _LONGEST_NAME)
                left -= end - string if end > 0 else _LONGEST_NAME
                if left < 0:
                    return
                if end > string:
                    yield strings[string:end]

    def _is_indexed(self) -> bool:
        self._searches += 1
        if self._searches == _SEARCHES + 1:
            if self._symbols.size // self._layout.size <= _MOST_INDEXED:
                self._index = self._make_index()
        return self._index is not None

    def _make_index(self) -> array[int] | None:
        """Sorted: the hash of the name without version, above the symbol's number.

        None for names so long that somebody wants it to take long.
        """
        strings = self.strings()
        left = _MOST_NAME_BYTES + 4 * len(strings)
        find = strings.find
        keys = []
        for index, string, _, _, _ in self.rows():
            end = find(b"\0", string, string + _LONGEST_NAME)
            if end > string:
                left -= end - string
                name = strings[string:end].partition(b"@")[0]
                keys.append((hash(name) & _HASH) << _NUMBER_BITS | index)
            else:
                left -= _LONGEST_NAME if end < 0 else 1
            if left < 0:
                return None
        keys.sort()
        return array("Q", keys)

    def _named_by_index(self, name: bytes) -> Iterator[Entry]:
        assert self._index is not None
        key = (hash(name) & _HASH) << _NUMBER_BITS
        at = bisect_left(self._index, key)
        while at < len(self._index) and self._index[at] >> _NUMBER_BITS == key >> _NUMBER_BITS:
            entry = self.entry(self._index[at] & ((1 << _NUMBER_BITS) - 1))
            if entry is not None and entry.name.partition(b"@")[0] == name:
                yield entry
            at += 1

    def _string_offsets(self, name: bytes) -> set[int] | None:
        """Where `name` ends a string, or its unversioned part; None for too many places.

        Linkers let a string be the tail of another (`malloc` in `__libc_malloc`), so that
        what stands before it does not matter.
        """
        offsets: set[int] = set()
        tail = b""
        for start, chunk in chunks(self._source, self._strings.offset, self._strings.size):
            data = tail + chunk
            base = start - len(tail)
            for terminated in (name + b"\0", name + b"@"):
                at = data.find(terminated)
                while at >= 0:
                    offsets.add(base + at)
                    if len(offsets) > _TOO_MANY:
                        return None
                    at = data.find(terminated, at + 1)
            tail = data[-len(name) :]
        return offsets

    def _named_by_searching(self, offsets: set[int]) -> Iterator[Entry]:
        size = self._layout.size
        wanted = [struct.pack("<I", offset) for offset in offsets]
        for start, chunk in chunks(self._source, self._symbols.offset, self._symbols.size, size):
            for string in wanted:
                at = chunk.find(string)
                while at >= 0:
                    excess = at % size
                    if excess == 0:
                        entry = self._entry((start + at) // size, chunk[at : at + size])
                        if entry is not None:
                            yield entry
                    at = chunk.find(string, at - excess + size)

    def _named_by_comparing(self, name: bytes) -> Iterator[Entry]:
        strings = self.strings()
        terminated = (name + b"\0", name + b"@")
        for index, string, _, _, _ in self.rows():
            if strings.startswith(terminated, string):
                entry = self.entry(index)
                if entry is not None:
                    yield entry

    def _entry(self, index: int, raw: bytes) -> Entry | None:
        if self._elf_class == 64:
            string, info, _, section, value, size = self._layout.unpack(raw)
        else:
            string, value, size, info, _, section = self._layout.unpack(raw)
        if not (0 < section < _SHN_LORESERVE or section == _SHN_XINDEX):
            return None
        name = self._string(string)
        return Entry(index, name, info, value, size) if name else None

    def _string(self, offset: int) -> bytes:
        """The string at `offset`; empty if it has no end."""
        length = 128
        while offset < self._strings.size:
            available = min(length, self._strings.size - offset)
            data = self._source.read(self._strings.offset + offset, available)
            end = data.find(b"\0")
            if end >= 0:
                return data[:end]
            if available < length or length >= _LONGEST_NAME:
                break
            length *= 8
        return b""
