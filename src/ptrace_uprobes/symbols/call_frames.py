"""Where a file keeps what unwinds its stack frames.

`.eh_frame` is loaded with the program, for exceptions; `.debug_frame`, of the same form but for
a few fields, is for debuggers, and strip(1) moves it to the separate file (LSB Core 5.0, 10.6;
DWARF 5, section 6.4). Nothing is read here but what says where they are.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.compressed import MOST_DECOMPRESSED, decompressed
from ptrace_uprobes.symbols.debug_sections import Inflater
from ptrace_uprobes.symbols.headers import PT_LOAD, Headers, Section
from ptrace_uprobes.symbols.source import BytesSource, Source

__all__ = ["CallFrames", "FrameBytes", "call_frames_of"]

_PT_GNU_EH_FRAME: Final = 0x6474E550
_SHT_NOBITS: Final = 8
_MOST_BYTES: Final = 1 << 28
_PCREL_SDATA4: Final = 0x1B


@dataclass(frozen=True, slots=True)
class FrameBytes:
    """A section, or as much of one as the file has."""

    source: Source
    offset: int
    size: int
    address: int
    """Where it is loaded, as the file has it; 0 if it is not."""
    word: int = 8
    """Bytes in an address."""

    def read(self, at: int, size: int) -> bytes:
        """Up to `size` bytes at `at`: fewer at the section's end, none if it is unreadable."""
        size = min(size, self.size - at)
        if at < 0 or size <= 0:
            return b""
        try:
            return self.source.read(self.offset + at, size)
        except UnreadableElf:
            return b""


@dataclass(frozen=True, slots=True)
class CallFrames:
    """The three places; each None if the file has none."""

    index: FrameBytes | None
    """`.eh_frame_hdr`: a table for binary search."""
    eh_frame: FrameBytes | None
    debug_frame: FrameBytes | None


def call_frames_of(source: Source, headers: Headers) -> CallFrames:
    index = _index(source, headers)
    return CallFrames(index, _eh_frame(source, headers, index), _debug_frame(source, headers))


def _index(source: Source, headers: Headers) -> FrameBytes | None:
    for segment in headers.segments:
        if segment.kind == _PT_GNU_EH_FRAME:
            # The loaded bytes count, and a debug file has only the header of this segment.
            offset = headers.offset_of(segment.address)
            if offset is not None and segment.file_size > 0:
                size = min(segment.file_size, source.available(offset), _MOST_BYTES)
                return FrameBytes(source, offset, size, segment.address, headers.elf_class // 8)
    return None


def _eh_frame(source: Source, headers: Headers, index: FrameBytes | None) -> FrameBytes | None:
    section = headers.section(".eh_frame")
    if section is not None:
        found = _loaded(source, headers, section)
        if found is not None:
            return found
    if index is None:
        return None
    # Without section headers: from where the index says, to the end of the segment at most.
    head = index.read(0, 8)
    if len(head) < 8 or head[1] != _PCREL_SDATA4:
        return None
    address = index.address + 4 + struct.unpack_from("<i", head, 4)[0]
    for segment in headers.segments:
        delta = address - segment.address
        if segment.kind == PT_LOAD and 0 <= delta < segment.file_size:
            offset = segment.offset + delta
            size = min(segment.file_size - delta, source.available(offset), _MOST_BYTES)
            return FrameBytes(source, offset, size, address, headers.elf_class // 8)
    return None


def _loaded(source: Source, headers: Headers, section: Section) -> FrameBytes | None:
    if section.kind == _SHT_NOBITS or section.offset + section.size > source.size:
        return None
    for segment in headers.segments:
        delta = section.offset - segment.offset
        if segment.kind == PT_LOAD and 0 <= delta < segment.file_size:
            size = min(section.size, _MOST_BYTES)
            address = segment.address + delta
            return FrameBytes(source, section.offset, size, address, headers.elf_class // 8)
    return None


def _debug_frame(source: Source, headers: Headers) -> FrameBytes | None:
    for name in (".debug_frame", ".zdebug_frame"):
        section = headers.section(name)
        if section is None or section.kind == _SHT_NOBITS:
            continue
        if section.size > _MOST_BYTES or section.offset + section.size > source.size:
            continue
        plain = FrameBytes(source, section.offset, section.size, 0, headers.elf_class // 8)
        return _decompressed(plain, headers.elf_class)
    return None


def _decompressed(found: FrameBytes, elf_class: int) -> FrameBytes | None:
    head = found.read(0, 24)
    if head[:4] == b"ZLIB" and len(head) >= 12:
        start, size = 12, int.from_bytes(head[4:12], "big")
    elif elf_class == 64 and len(head) == 24 and head[:8] == b"\1\0\0\0\0\0\0\0":
        # Elf64_Chdr: ch_type, ch_reserved, ch_size, ch_addralign. No entry begins so: the
        # word after a first entry's length is a CIE's, all ones.
        start, size = 24, struct.unpack_from("<Q", head, 8)[0]
    elif elf_class == 32 and len(head) >= 12 and head[:4] == b"\1\0\0\0":
        # Elf32_Chdr: ch_type, ch_size, ch_addralign. No entry is of one byte.
        start, size = 12, struct.unpack_from("<I", head, 4)[0]
    else:
        return found
    content = found.read(start, min(found.size - start, MOST_DECOMPRESSED))
    try:
        data = decompressed(Inflater(), content, min(size, MOST_DECOMPRESSED))
    except (zlib.error, MemoryError):
        return None
    if data is None:
        return None
    return FrameBytes(BytesSource(data, found.source.name), 0, len(data), 0, found.word)
