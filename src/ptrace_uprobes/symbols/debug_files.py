"""Where distributions put what strip(1) took out of a file.

GDB manual, "Debugging Information in Separate Files": by build ID below a global directory,
or by the name and the CRC in `.gnu_debuglink`, beside the file, in `.debug/` there, or under
the global directory. "MiniDebugInfo": a compressed ELF file with a `.symtab` within the file.
"""

from __future__ import annotations

import os
import posixpath
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.symbols.compressed import MOST_DECOMPRESSED, decompressed
from ptrace_uprobes.symbols.headers import PT_NOTE, Headers
from ptrace_uprobes.symbols.source import BytesSource, FileSource, Source, chunks

__all__ = ["DebugLink", "candidates", "crc_matches", "embedded", "read_build_id", "read_debug_link"]

_NT_GNU_BUILD_ID: Final = 3
_SHT_NOTE: Final = 7
_MOST_NOTE_BYTES: Final = 1 << 16
_MOST_NOTE_BYTES_IN_ALL: Final = 1 << 20
_LONGEST_BUILD_ID: Final = 64
_LZMA_MEMORY: Final = 1 << 27
_MOST_CRC_BYTES: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class DebugLink:
    """What `.gnu_debuglink` says."""

    name: str
    crc: int


def read_build_id(source: Source, headers: Headers) -> bytes | None:
    """The bytes that identify the link that made the file."""
    segments = [(s.offset, s.file_size) for s in headers.segments if s.kind == PT_NOTE]
    sections = [(s.offset, s.size) for s in headers.sections if s.kind == _SHT_NOTE]
    left = _MOST_NOTE_BYTES_IN_ALL  # a file may claim thousands that are the same bytes
    for offset, size in (*segments, *sections):
        if left <= 0:
            break
        left -= min(size, _MOST_NOTE_BYTES)
        found = _build_id_in(source, offset, size)
        if found is not None:
            return found
    return None


def _build_id_in(source: Source, offset: int, size: int) -> bytes | None:
    size = min(size, _MOST_NOTE_BYTES)
    if offset + size > source.size:
        return None
    data = source.read(offset, size)
    at = 0
    while at + 12 <= size:
        name_size, content_size, kind = struct.unpack_from("<III", data, at)
        # Both are padded to 4 bytes, or to 8 in a segment of property notes, where no
        # build ID is.
        content = at + 12 + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and data[at + 12 : at + 16] == b"GNU\0":
            if 2 <= content_size <= _LONGEST_BUILD_ID and content + content_size <= size:
                return data[content : content + content_size]
            return None
        at = content + (content_size + 3 & ~3)
    return None


def read_debug_link(source: Source, headers: Headers) -> DebugLink | None:
    section = headers.section(".gnu_debuglink")
    if section is None or not 6 <= section.size <= 4096:
        return None
    if section.offset + section.size > source.size:
        return None
    data = source.read(section.offset, section.size)
    name, _, _ = data.partition(b"\0")
    at = len(name) + 4 & ~3  # past the NUL, aligned to 4
    if not name or b"/" in name or at + 4 > len(data):
        return None
    return DebugLink(os.fsdecode(name), struct.unpack_from("<I", data, at)[0])


def candidates(
    path: str, root: str, build_id: bytes | None, link: DebugLink | None, debug_root: str
) -> Iterator[tuple[str, int | None]]:
    """Paths of what may be the debug file of `path`, each with the CRC that it must have.

    `root` is where the program's own file system is seen from here (`/proc/PID/root`, or
    empty); the debug files of a program in a container may be in either.
    """
    roots = ("", root) if root else ("",)
    if build_id is not None:
        digits = build_id.hex()
        for prefix in roots:
            yield f"{prefix}{debug_root}/.build-id/{digits[:2]}/{digits[2:]}.debug", None
    if link is not None and path.startswith("/"):
        directory = posixpath.dirname(path)
        for prefix in reversed(roots):
            yield f"{prefix}{posixpath.join(directory, link.name)}", link.crc
            yield f"{prefix}{posixpath.join(directory, '.debug', link.name)}", link.crc
            yield f"{prefix}{debug_root}{posixpath.join(directory, link.name)}", link.crc
            # Where /lib is a link to /usr/lib, the package may still go by the old name.
            if directory.startswith("/usr/"):
                unmerged = posixpath.join(directory[4:], link.name)
                yield f"{prefix}{debug_root}{unmerged}", link.crc


def crc_matches(source: FileSource, crc: int) -> bool:
    """Whether the file's content has this checksum (which is zlib's)."""
    import zlib  # only where a debug link is followed

    if source.size > _MOST_CRC_BYTES:
        return False
    value = 0
    for _, chunk in chunks(source, 0, source.size):
        value = zlib.crc32(chunk, value)
    return value == crc


def embedded(source: Source, headers: Headers) -> BytesSource | None:
    """The file in `.gnu_debugdata`, decompressed; None if there is none that can be read."""
    section = headers.section(".gnu_debugdata")
    if section is None or section.size > MOST_DECOMPRESSED:
        return None
    if section.offset + section.size > source.size:
        return None
    import lzma  # only for the few distributions that have this section

    try:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
        content = source.read(section.offset, section.size)
        data = decompressed(decompressor, content, MOST_DECOMPRESSED + 1)
    except (lzma.LZMAError, EOFError, MemoryError):  # the dictionary may be larger than allowed
        return None
    if data is None:
        return None
    return BytesSource(data, f"{source.name} (.gnu_debugdata)")
