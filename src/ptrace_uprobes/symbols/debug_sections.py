"""Sections of debug information, decompressed where they are compressed."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from ptrace_uprobes.symbols.compressed import MOST_DECOMPRESSED, decompressed
from ptrace_uprobes.symbols.headers import Headers
from ptrace_uprobes.symbols.source import Source

__all__ = ["Inflater", "debug_section", "has_section"]

_SHT_NOBITS: Final = 8
_ELFCOMPRESS_ZLIB: Final = 1
_HEADS: Final = {32: struct.Struct("<III"), 64: struct.Struct("<IIQQ")}
"""Elf32_Chdr and Elf64_Chdr (elf(5)): the kind, and the size before the last word."""


class Inflater:
    """zlib's decompressor: it wants what it has left over, and lzma's keeps that itself."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def has_section(headers: Headers, name: str) -> bool:
    """Whether the file itself has the section's bytes."""
    section = headers.section(name)
    return section is not None and section.kind != _SHT_NOBITS and section.size > 0


def debug_section(source: Source, headers: Headers, name: str) -> bytes:
    """The section's bytes; none where there is none, or one that cannot be read."""
    section = headers.section(name)
    if section is None or section.kind == _SHT_NOBITS or section.size > MOST_DECOMPRESSED:
        return b""
    if section.offset + section.size > source.size:
        return b""
    data = source.read(section.offset, section.size)
    if not section.is_compressed:
        return data
    head = _HEADS[headers.elf_class]
    if len(data) < head.size:
        return b""
    fields = head.unpack_from(data)
    if fields[0] != _ELFCOMPRESS_ZLIB:
        return b""
    try:
        return (
            decompressed(Inflater(), data[head.size :], min(fields[-2], MOST_DECOMPRESSED)) or b""
        )
    except (zlib.error, MemoryError):
        return b""
