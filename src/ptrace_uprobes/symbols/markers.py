"""USDT markers: places that a program's author has named, with what is to be seen there.

A marker is a `nop` and a note that says where it is, where its arguments are, as operands in
the assembler's notation, and where its semaphore is: a counter of who is looking
(https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.addresses import ElfAddr
from ptrace_uprobes.symbols.headers import Headers, Section
from ptrace_uprobes.symbols.source import Source

__all__ = ["Marker", "read_markers"]

_SHT_NOTE: Final = 7
_NOTES: Final = ".note.stapsdt"
_BASE: Final = ".stapsdt.base"
_OWNER: Final = b"stapsdt\0"
_KIND: Final = 3
_MOST_BYTES: Final = 1 << 22
"""In all: a file may claim thousands of sections that are the same bytes."""
_LONGEST_NOTE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Marker:
    """One place of a marker; it has as many as its author wrote, and the compiler inlined."""

    provider: str
    name: str
    address: ElfAddr
    semaphore: ElfAddr | None
    arguments: tuple[str, ...]
    """As the assembler would write them, `-4@%edi`: the size in bytes, negative if signed."""

    @property
    def label(self) -> str:
        return f"{self.provider}:{self.name}"


def read_markers(
    source: Source, headers: Headers, is_code: Callable[[int], bool]
) -> tuple[Marker, ...]:
    """The markers of a file, in the order of its notes; those that lie in no code are left out,
    and so is what follows a note that is damaged."""
    base = headers.section(_BASE)
    markers: list[Marker] = []
    left = _MOST_BYTES
    for section in headers.sections:
        if section.kind != _SHT_NOTE or section.name != _NOTES:
            continue
        left -= section.size
        if left < 0:
            break
        found = _read_section(source, headers.elf_class // 8, section, base)
        markers += (marker for marker in found if is_code(marker.address))
    return tuple(markers)


def _read_section(
    source: Source, word: int, section: Section, base: Section | None
) -> Iterator[Marker]:
    if section.offset + section.size > source.size:
        return
    data = source.read(section.offset, section.size)
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + (name_size + 3 & ~3)
        if size > _LONGEST_NOTE or start + size > len(data):
            return
        if kind == _KIND and data[at + 12 : at + 12 + name_size] == _OWNER:
            marker = _marker(data[start : start + size], word, base)
            if marker is not None:
                yield marker
        at = start + (size + 3 & ~3)


def _marker(note: bytes, word: int, base: Section | None) -> Marker | None:
    if len(note) < 3 * word:
        return None
    address, base_then, semaphore = struct.unpack_from("<3Q" if word == 8 else "<3I", note)
    texts = note[3 * word :].split(b"\0")
    if len(texts) < 3:
        return None
    provider, name, arguments = (text.decode("utf-8", "surrogateescape") for text in texts[:3])
    # prelink(8) moves a file, and not what its notes say; so they say where a section was.
    moved = base.address - base_then if base is not None and base_then else 0
    mask = (1 << 8 * word) - 1
    return Marker(
        provider,
        name,
        ElfAddr(address + moved & mask),
        ElfAddr(semaphore + moved & mask) if semaphore else None,
        tuple(arguments.split()),
    )
