"""Where in a file its symbol tables are."""

from __future__ import annotations

from typing import Final

from ptrace_uprobes.symbols.dynamic import SYMBOL_SIZE, Dynamic, Range, symbols_of
from ptrace_uprobes.symbols.headers import Headers, Section
from ptrace_uprobes.symbols.source import Source
from ptrace_uprobes.symbols.tables import SymbolTable
from ptrace_uprobes.symbols.versions import VersionTable, read_versions

__all__ = ["dynamic_table", "static_table"]

_SHT_SYMTAB: Final = 2
_SHT_DYNSYM: Final = 11
_SHT_GNU_VERDEF: Final = 0x6FFFFFFD
_SHT_GNU_VERSYM: Final = 0x6FFFFFFF

_MOST_BYTES: Final = 1 << 29
"""No linker has written a larger table; a file that claims one is not read into memory."""


def static_table(source: Source, headers: Headers) -> SymbolTable | None:
    """`.symtab`, which strip(1) removes."""
    return _table_of_section(source, headers, headers.section_of_kind(_SHT_SYMTAB))


def dynamic_table(source: Source, headers: Headers, dynamic: Dynamic | None) -> SymbolTable | None:
    """`.dynsym`, which the dynamic loader needs; through the dynamic section if need be."""
    section = headers.section_of_kind(_SHT_DYNSYM)
    if section is not None and (strings := _strings_of(source, headers, section)) is not None:
        symbols = _range_of(source, section)
        indices = headers.section_of_kind(_SHT_GNU_VERSYM)
        definitions = headers.section_of_kind(_SHT_GNU_VERDEF)
        if symbols is not None:
            return _versioned(
                source,
                headers,
                symbols,
                strings,
                indices.offset if indices else None,
                definitions.offset if definitions else None,
            )
    if dynamic is None or dynamic.strings is None:
        return None
    symbols = symbols_of(source, dynamic, headers.elf_class)
    if symbols is None or max(symbols.size, dynamic.strings.size) > _MOST_BYTES:
        return None
    return _versioned(
        source,
        headers,
        symbols,
        dynamic.strings,
        dynamic.version_indices,
        dynamic.version_definitions,
    )


def _versioned(
    source: Source,
    headers: Headers,
    symbols: Range,
    strings: Range,
    indices: int | None,
    definitions: int | None,
) -> SymbolTable:
    def read() -> VersionTable | None:
        if indices is None or definitions is None:
            return None
        count = symbols.size // SYMBOL_SIZE[headers.elf_class]
        return read_versions(source, indices, count, definitions, strings.offset, strings.size)

    return SymbolTable(source, headers.elf_class, symbols, strings, read)


def _table_of_section(
    source: Source, headers: Headers, section: Section | None
) -> SymbolTable | None:
    if section is None:
        return None
    symbols, strings = _range_of(source, section), _strings_of(source, headers, section)
    if symbols is None or strings is None:
        return None
    return SymbolTable(source, headers.elf_class, symbols, strings)


def _strings_of(source: Source, headers: Headers, section: Section) -> Range | None:
    if not 0 < section.link < len(headers.sections):
        return None
    return _range_of(source, headers.sections[section.link])


def _range_of(source: Source, section: Section) -> Range | None:
    if section.size > _MOST_BYTES or section.offset + section.size > source.size:
        return None
    return Range(section.offset, section.size)
