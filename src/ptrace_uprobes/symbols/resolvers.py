"""Which functions of a file are resolvers of indirect ones, by what makes the program run them.

A symbol table that nobody needs to run the program (`.symtab`) may say IFUNC of any function. What
the dynamic linker, or the start of a static program, goes by is the dynamic symbol table and the
relocations (System V ABI, AMD64 supplement, R_X86_64_IRELATIVE; Intel386, R_386_IRELATIVE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.dynamic import Dynamic, Range
from ptrace_uprobes.symbols.headers import PT_LOAD, Headers
from ptrace_uprobes.symbols.source import Source, chunks
from ptrace_uprobes.symbols.tables import STT_GNU_IFUNC, SymbolTable

__all__ = ["resolvers_of"]

_SHT_RELA: Final = 4
_SHT_REL: Final = 9
_RELA: Final = struct.Struct("<QQq")
_REL: Final = struct.Struct("<II")
_X86_64_IRELATIVE: Final = 37
_386_IRELATIVE: Final = 42
_MOST_BYTES: Final = 1 << 25
"""A million relocations, of all sorts."""


def resolvers_of(
    source: Source, headers: Headers, dynamic: Dynamic | None, public: SymbolTable | None
) -> frozenset[int]:
    """Their addresses in the file; `public` is its dynamic symbol table."""
    found: set[int] = set()
    try:
        if public is not None:
            found.update(
                value for _, _, info, value, _ in public.rows() if info & 15 == STT_GNU_IFUNC
            )
        for place in _relocations(headers, dynamic):
            if place.size <= _MOST_BYTES and place.offset + place.size <= source.size:
                found.update(_irelative(source, headers, place))
    except UnreadableElf:
        pass  # cut short meanwhile: what is not found is not run
    return frozenset(found)


def _relocations(headers: Headers, dynamic: Dynamic | None) -> Iterator[Range]:
    if dynamic is not None:
        yield from dynamic.relocations
        return
    # A static program finds them by symbols of the linker's; they are loaded with it.
    loads = [segment for segment in headers.segments if segment.kind == PT_LOAD]
    wanted = _SHT_RELA if headers.elf_class == 64 else _SHT_REL
    for section in headers.sections:
        if section.kind == wanted and any(
            load.offset <= section.offset
            and section.offset + section.size <= load.offset + load.file_size
            for load in loads
        ):
            yield Range(section.offset, section.size)


def _irelative(source: Source, headers: Headers, place: Range) -> Iterator[int]:
    layout = _RELA if headers.elf_class == 64 else _REL
    size = place.size - place.size % layout.size
    for _, data in chunks(source, place.offset, size, layout.size):
        if headers.elf_class == 64:
            for _, info, addend in _RELA.iter_unpack(data):
                if info & 0xFFFFFFFF == _X86_64_IRELATIVE:
                    yield addend
        else:
            for where, info in _REL.iter_unpack(data):
                at = headers.offset_of(where) if info & 0xFF == _386_IRELATIVE else None
                if at is not None and at + 4 <= source.size:
                    yield int.from_bytes(source.read(at, 4), "little")
