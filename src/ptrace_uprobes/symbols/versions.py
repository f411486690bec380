"""Symbol versions (Linux Standard Base, "Symbol Versioning"; the .gnu.version sections)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.symbols.source import Source

__all__ = ["Version", "VersionTable", "read_versions"]

_HIDDEN: Final = 0x8000
_FIRST_NAMED: Final = 2  # 0 is local, 1 is global without a version
_DEFINITION = struct.Struct("<HHHHIII")
_AUXILIARY = struct.Struct("<II")
_MOST_BYTES: Final = 1 << 20
_LONGEST_NAME: Final = 256


@dataclass(frozen=True, slots=True)
class Version:
    """Which of the symbols of one name it is."""

    name: str
    is_default: bool
    """`NAME@@VERSION`, which a program linked now gets; else kept for older programs."""


@dataclass(frozen=True, slots=True)
class VersionTable:
    """The versions of a dynamic symbol table, by symbol index."""

    indices: bytes
    names: dict[int, str]

    def of(self, symbol: int) -> Version | None:
        at = 2 * symbol
        if at + 2 > len(self.indices):
            return None
        value = self.indices[at] | self.indices[at + 1] << 8
        name = self.names.get(value & ~_HIDDEN)
        return None if name is None else Version(name, not value & _HIDDEN)


def read_versions(
    source: Source,
    indices_offset: int,
    symbol_count: int,
    definitions_offset: int,
    strings_offset: int,
    strings_size: int,
) -> VersionTable | None:
    """The versions that the file defines; None if the tables cannot be read."""
    if 2 * symbol_count > source.available(indices_offset):
        return None
    definitions = source.read(
        definitions_offset, min(_MOST_BYTES, source.available(definitions_offset))
    )
    names: dict[int, str] = {}
    at = 0
    # An index has 15 bits, so that a longer chain repeats itself.
    for _ in range(_HIDDEN):
        if at + _DEFINITION.size > len(definitions):
            break
        _, _, index, _, _, auxiliary, following = _DEFINITION.unpack_from(definitions, at)
        if index >= _FIRST_NAMED and at + auxiliary + _AUXILIARY.size <= len(definitions):
            # The first auxiliary entry is the version's own name, the others its parents'.
            name_offset, _ = _AUXILIARY.unpack_from(definitions, at + auxiliary)
            if name_offset < strings_size:
                text = source.read(
                    strings_offset + name_offset, min(_LONGEST_NAME, strings_size - name_offset)
                )
                name = text.partition(b"\0")[0].decode("utf-8", "surrogateescape")
                names.setdefault(index & ~_HIDDEN, name)
        if following == 0:
            break
        at += following
    return VersionTable(source.read(indices_offset, 2 * symbol_count), names)
