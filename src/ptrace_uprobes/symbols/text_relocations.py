"""Instructions that the dynamic linker completes: text relocations (DT_TEXTREL, System V ABI,
chapter 5).

Code that is not position-independent gets them when it is linked into a library or a PIE: nearly
always i386's; on x86-64 such as `movabs $symbol,%rax`, with the linker's -z notext. Until they are
made, what stands in memory is not what will run.
"""

from __future__ import annotations

import struct
from typing import Final

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.headers import PT_DYNAMIC, PT_LOAD, Headers
from ptrace_uprobes.symbols.source import Source

__all__ = ["text_relocations"]

_DT_REL: Final = {32: 17, 64: 7}
_DT_RELSZ: Final = {32: 18, 64: 8}
"""i386's relocations are Elf32_Rel, x86-64's Elf64_Rela."""
_DT_TEXTREL: Final = 22
_DT_FLAGS: Final = 30
_DF_TEXTREL: Final = 4
_MOST_ENTRIES: Final = 4096
_MOST_RELOCATIONS: Final = 1 << 20
_ENTRY: Final = {32: struct.Struct("<I4x"), 64: struct.Struct("<Q16x")}
_DYNAMIC: Final = {32: struct.Struct("<II"), 64: struct.Struct("<QQ")}


def text_relocations(source: Source, headers: Headers) -> tuple[int, ...]:
    """Where in executable segments words will be changed, in the file's addresses and in
    order."""
    segment = next((s for s in headers.segments if s.kind == PT_DYNAMIC), None)
    if segment is None:
        return ()
    bits = headers.elf_class
    entry = _ENTRY[bits]
    try:
        values = _dynamic_values(source, segment.offset, segment.file_size, bits)
        if _DT_TEXTREL not in values and not values.get(_DT_FLAGS, 0) & _DF_TEXTREL:
            return ()
        offset = headers.offset_of(values.get(_DT_REL[bits], 0))
        size = min(values.get(_DT_RELSZ[bits], 0), _MOST_RELOCATIONS * entry.size)
        if offset is None:
            return ()
        table = source.read(offset, size - size % entry.size)
    except UnreadableElf:
        return ()
    code = [s for s in headers.segments if s.kind == PT_LOAD and s.is_executable]
    places = {place for (place,) in entry.iter_unpack(table)}
    return tuple(sorted(p for p in places if any(s.contains(p) for s in code)))


def _dynamic_values(source: Source, offset: int, size: int, bits: int) -> dict[int, int]:
    layout = _DYNAMIC[bits]
    size = min(size, _MOST_ENTRIES * layout.size)
    values: dict[int, int] = {}
    for tag, value in layout.iter_unpack(source.read(offset, size - size % layout.size)):
        if tag == 0:
            break
        values.setdefault(tag, value)
    return values
