"""Instructions that the dynamic linker completes: text relocations (DT_TEXTREL, System V ABI,
chapter 5).

i386 code that is not position-independent gets them when it is linked into a library or a PIE.
Until they are made, what stands in memory is not what will run.
"""

from __future__ import annotations

import struct
from typing import Final

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.headers import PT_DYNAMIC, PT_LOAD, Headers
from ptrace_uprobes.symbols.source import Source

__all__ = ["text_relocations"]

_DT_REL: Final = 17
_DT_RELSZ: Final = 18
_DT_TEXTREL: Final = 22
_DT_FLAGS: Final = 30
_DF_TEXTREL: Final = 4
_MOST_ENTRIES: Final = 4096
_MOST_RELOCATIONS: Final = 1 << 20
_ENTRY: Final = struct.Struct("<II")


def text_relocations(source: Source, headers: Headers) -> tuple[int, ...]:
    """Where in executable segments words will be changed, in the file's addresses and in order.
    Of 32-bit files only: 64-bit code has no use for them."""
    segment = next((s for s in headers.segments if s.kind == PT_DYNAMIC), None)
    if segment is None or headers.elf_class != 32:
        return ()
    try:
        values = _dynamic_values(source, segment.offset, segment.file_size)
        if _DT_TEXTREL not in values and not values.get(_DT_FLAGS, 0) & _DF_TEXTREL:
            return ()
        offset = headers.offset_of(values.get(_DT_REL, 0))
        size = min(values.get(_DT_RELSZ, 0), _MOST_RELOCATIONS * _ENTRY.size)
        if offset is None:
            return ()
        table = source.read(offset, size - size % _ENTRY.size)
    except UnreadableElf:
        return ()
    code = [s for s in headers.segments if s.kind == PT_LOAD and s.is_executable]
    places = {place for place, _ in _ENTRY.iter_unpack(table)}
    return tuple(sorted(p for p in places if any(s.contains(p) for s in code)))


def _dynamic_values(source: Source, offset: int, size: int) -> dict[int, int]:
    size = min(size, _MOST_ENTRIES * _ENTRY.size)
    values: dict[int, int] = {}
    for tag, value in _ENTRY.iter_unpack(source.read(offset, size - size % _ENTRY.size)):
        if tag == 0:
            break
        values.setdefault(tag, value)
    return values
