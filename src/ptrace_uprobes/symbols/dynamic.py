"""What the dynamic section says (System V ABI, chapter 5): the only index to a file's
symbols when it has no section headers, and the only one that a loaded image has."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.addresses import FileOffset
from ptrace_uprobes.symbols.headers import PT_DYNAMIC, Headers
from ptrace_uprobes.symbols.source import Source

__all__ = ["SYMBOL_SIZE", "Dynamic", "Range", "read_dynamic", "symbols_of"]

_DT_NULL: Final = 0
_DT_HASH: Final = 4
_DT_STRTAB: Final = 5
_DT_SYMTAB: Final = 6
_DT_STRSZ: Final = 10
_DT_SONAME: Final = 14
_RELOCATIONS: Final = ((7, 8), (17, 18), (23, 2))
"""DT_RELA, DT_REL and DT_JMPREL, each with the tag of its size."""
_DT_GNU_HASH: Final = 0x6FFFFEF5
_DT_VERSYM: Final = 0x6FFFFFF0
_DT_VERDEF: Final = 0x6FFFFFFC

_MOST_ENTRIES: Final = 4096
_MOST_SYMBOLS: Final = 1 << 22
"""Thirty times as many as any library exports; a hash table may lie in a file's holes."""
_MOST_STRING_BYTES: Final = 1 << 28
SYMBOL_SIZE = {32: 16, 64: 24}
_ENTRY = {32: struct.Struct("<II"), 64: struct.Struct("<QQ")}


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a file."""

    offset: FileOffset
    size: int


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The dynamic section's values, its addresses turned into file offsets."""

    soname: str | None
    symbols: FileOffset | None
    strings: Range | None
    hash_table: FileOffset | None
    gnu_hash_table: FileOffset | None
    version_indices: FileOffset | None
    """One 16-bit index a symbol (`.gnu.version`)."""
    version_definitions: FileOffset | None
    """`.gnu.version_d`, whose length nothing here says."""
    relocations: tuple[Range, ...]
    """Of the two forms the one that the machine has."""


def read_dynamic(source: Source, headers: Headers, bias: int = 0) -> Dynamic | None:
    """The dynamic section, or None if there is none that can be read.

    `bias` is the load bias where the source is a live process's memory: the dynamic loader
    adds it to these addresses in place (glibc, elf/get-dynamic-info.h).
    """
    segment = next((s for s in headers.segments if s.kind == PT_DYNAMIC), None)
    if segment is None:
        return None
    layout = _ENTRY[headers.elf_class]
    size = min(segment.file_size, _MOST_ENTRIES * layout.size)
    size -= size % layout.size
    if segment.offset + size > source.size:
        return None
    values: dict[int, int] = {}
    for tag, value in layout.iter_unpack(source.read(segment.offset, size)):
        if tag == _DT_NULL:
            break
        values.setdefault(tag, value)

    def place(tag: int) -> FileOffset | None:
        if tag not in values:
            return None
        offset = headers.offset_of(values[tag])
        return headers.offset_of(values[tag] - bias) if offset is None else offset

    strings = None
    soname = None
    string_offset, string_size = place(_DT_STRTAB), values.get(_DT_STRSZ, 0)
    fits = string_offset is not None and string_offset + string_size <= source.size
    if string_offset is not None and fits and string_size <= _MOST_STRING_BYTES:
        strings = Range(string_offset, string_size)
        if _DT_SONAME in values and values[_DT_SONAME] < string_size:
            at = values[_DT_SONAME]
            text = source.read(string_offset + at, min(256, string_size - at))
            soname = text.partition(b"\0")[0].decode("utf-8", "surrogateescape") or None
    relocations = [(place(tag), values.get(size, 0)) for tag, size in _RELOCATIONS]
    return Dynamic(
        soname=soname,
        symbols=place(_DT_SYMTAB),
        strings=strings,
        hash_table=place(_DT_HASH),
        gnu_hash_table=place(_DT_GNU_HASH),
        version_indices=place(_DT_VERSYM),
        version_definitions=place(_DT_VERDEF),
        relocations=tuple(Range(at, size) for at, size in relocations if at is not None),
    )


def symbols_of(source: Source, dynamic: Dynamic, elf_class: int) -> Range | None:
    """The dynamic symbol table, whose length only the hash tables tell."""
    if dynamic.symbols is None:
        return None
    count = _count_by_hash(source, dynamic.hash_table)
    if count is None:
        count = _count_by_gnu_hash(source, dynamic.gnu_hash_table, elf_class)
    if count is not None and count > _MOST_SYMBOLS:
        return None
    size = (count or 0) * SYMBOL_SIZE[elf_class]
    return Range(dynamic.symbols, size) if dynamic.symbols + size <= source.size else None


def _count_by_hash(source: Source, offset: int | None) -> int | None:
    """DT_HASH states the number of symbols: its chain has one entry each."""
    if offset is None or offset + 8 > source.size:
        return None
    return int(struct.unpack("<II", source.read(offset, 8))[1])


def _count_by_gnu_hash(source: Source, offset: int | None, elf_class: int) -> int | None:
    """DT_GNU_HASH does not state the number: it is one past the end of the last chain."""
    if offset is None or offset + 16 > source.size:
        return None
    buckets, first, bloom_words, _ = struct.unpack("<IIII", source.read(offset, 16))
    bucket_offset = offset + 16 + bloom_words * elf_class // 8
    chains = bucket_offset + 4 * buckets
    if buckets > _MOST_SYMBOLS or chains > source.size:
        return None
    last = max(
        (b for (b,) in struct.iter_unpack("<I", source.read(bucket_offset, 4 * buckets))), default=0
    )
    if last < first:
        return int(first)
    while last <= _MOST_SYMBOLS:
        at = chains + 4 * (last - first)
        chunk = source.read(at, min(4096, source.available(at) // 4 * 4))
        if not chunk:
            return None
        for (value,) in struct.iter_unpack("<I", chunk):
            last += 1
            if value & 1:
                return int(last)
    return None
