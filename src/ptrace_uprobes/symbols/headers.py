"""An ELF file's headers as frozen values (System V ABI, chapters 4 and 5; elf(5)).

Nothing that the file says is believed: every offset and count is held against the size of
the file, and a count that is within it but absurd is refused. Section headers are not
needed to run a program, so that a file with wrong ones is read as if it had none.

Written on `struct` and not on pyelftools: importing that takes 80 ms and 7 MB, it makes an
object of every symbol (150 ms for libc's dynamic ones, against 22 here), and it answers some
damaged files with an OverflowError, an ArrayError, or seconds of work.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.addresses import ElfAddr, FileOffset
from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.source import Source

__all__ = ["Headers", "Section", "Segment", "check_segments", "read_headers", "read_interpreter"]

ET_EXEC: Final = 2
ET_DYN: Final = 3
_TYPE_NAMES = {0: "no type", 1: "a relocatable object", 4: "a core dump"}

PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_INTERP: Final = 3
PT_NOTE: Final = 4
_PF_X: Final = 1
_PF_W: Final = 2

_PN_XNUM: Final = 0xFFFF
_SHN_XINDEX: Final = 0xFFFF

_MOST_SECTIONS: Final = 1 << 16
_SHF_EXECINSTR: Final = 4
_SHF_COMPRESSED: Final = 0x800
_MOST_SECTION_NAMES: Final = 1 << 22

_FILE_HEADER = {32: struct.Struct("<HHIIIIIHHHHHH"), 64: struct.Struct("<HHIQQQIHHHHHH")}
_PROGRAM_HEADER = {32: struct.Struct("<IIIIIIII"), 64: struct.Struct("<IIQQQQQQ")}
_SECTION_HEADER = {32: struct.Struct("<IIIIIIIIII"), 64: struct.Struct("<IIQQQQIIQQ")}


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header: what the kernel and the dynamic loader go by."""

    kind: int
    offset: FileOffset
    address: ElfAddr
    file_size: int
    memory_size: int
    is_executable: bool
    is_writable: bool

    def contains(self, address: int) -> bool:
        return self.address <= address < self.address + self.memory_size


@dataclass(frozen=True, slots=True)
class Section:
    """A section header: what linkers and debuggers go by."""

    name: str
    kind: int
    offset: FileOffset
    size: int
    link: int
    is_executable: bool
    is_compressed: bool
    address: ElfAddr
    """0 of what is not loaded."""


@dataclass(frozen=True, slots=True)
class Headers:
    """The file header and the two tables that it points to."""

    elf_class: int
    """32 or 64."""
    machine: int
    is_position_independent: bool
    entry: ElfAddr
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    """Empty if the file has none that can be believed."""

    def section(self, name: str) -> Section | None:
        return next((s for s in self.sections if s.name == name), None)

    def section_of_kind(self, kind: int) -> Section | None:
        return next((s for s in self.sections if s.kind == kind), None)

    def is_instructions(self, address: int) -> bool:
        """Whether the section that holds the address is one of instructions. Segments are
        coarser: strings may lie in one that is executable. True where there are no sections."""
        offset = self.offset_of(address)
        return not self.sections or any(
            s.is_executable and offset is not None and s.offset <= offset < s.offset + s.size
            for s in self.sections
        )

    def offset_of(self, address: int) -> FileOffset | None:
        """Where in the file the byte at `address` is, if it is in the file."""
        for segment in self.segments:
            if segment.kind == PT_LOAD:
                delta = address - segment.address
                if 0 <= delta < segment.file_size:
                    return FileOffset(segment.offset + delta)
        return None


def read_headers(source: Source, *, in_memory: bool = False) -> Headers:
    """The headers; raises `UnreadableElf`.

    `in_memory`: the source is what is mapped of a file, where what the section headers point
    to is missing even if they themselves are not.
    """
    identity = source.read(0, min(16, source.size))
    if identity[:4] != b"\x7fELF":
        raise UnreadableElf(source.name, "it is not an ELF file")
    if len(identity) < 16:
        raise UnreadableElf(source.name, "it is cut short inside its ELF header")
    elf_class = {1: 32, 2: 64}.get(identity[4])
    if elf_class is None:
        raise UnreadableElf(source.name, f"its ELF class {identity[4]} is neither 32 nor 64 bits")
    if identity[5] != 1:
        raise UnreadableElf(source.name, "it is not little-endian")
    layout = _FILE_HEADER[elf_class]
    (
        kind,
        machine,
        _version,
        entry,
        segment_offset,
        section_offset,
        _flags,
        _header_size,
        segment_size,
        segment_count,
        section_size,
        section_count,
        names_index,
    ) = layout.unpack(source.read(16, layout.size))
    if kind not in (ET_EXEC, ET_DYN):
        what = _TYPE_NAMES.get(kind, f"of unknown type {kind}")
        raise UnreadableElf(source.name, f"it is {what}, not a program or library")
    sections: tuple[Section, ...] = ()
    if not in_memory:
        sections = _read_sections(
            source, elf_class, section_offset, section_size, section_count, names_index
        )
    return Headers(
        elf_class=elf_class,
        machine=machine,
        is_position_independent=kind == ET_DYN,
        entry=ElfAddr(entry),
        segments=_read_segments(source, elf_class, segment_offset, segment_size, segment_count),
        sections=sections,
    )


def read_interpreter(source: Source, headers: Headers) -> str | None:
    """The dynamic linker that the program names."""
    segment = next((s for s in headers.segments if s.kind == PT_INTERP), None)
    # PATH_MAX, as load_elf_binary (fs/binfmt_elf.c) has it
    if segment is None or not 2 <= segment.file_size <= 4096:
        return None
    if segment.offset + segment.file_size > source.size:
        return None
    text = source.read(segment.offset, segment.file_size).partition(b"\0")[0]
    return text.decode("utf-8", "surrogateescape")


def check_segments(source: Source, segments: Iterable[Segment]) -> None:
    """Raises `UnreadableElf` unless the file has all that is to be loaded."""
    for segment in segments:
        if segment.offset + segment.file_size > source.size:
            raise UnreadableElf(source.name, "it is cut short inside a segment")
        if segment.address + max(segment.memory_size, segment.file_size) > 1 << 64:
            raise UnreadableElf(source.name, "a segment wraps around the address space")


def _read_segments(
    source: Source, elf_class: int, offset: int, size: int, count: int
) -> tuple[Segment, ...]:
    layout = _PROGRAM_HEADER[elf_class]
    if count == 0:
        return ()
    if size != layout.size:
        raise UnreadableElf(source.name, f"its program headers are of {size} bytes each")
    # The kernel does not run a file with more (fs/binfmt_elf.c: load_elf_phdrs allows 64 KiB).
    if count == _PN_XNUM or count * size > 65536:
        raise UnreadableElf(source.name, f"it has {count} program headers")
    segments = []
    for fields in layout.iter_unpack(source.read(offset, count * size)):
        if elf_class == 64:
            kind, flags, place, address, _, file_size, memory_size, _ = fields
        else:
            kind, place, address, _, file_size, memory_size, flags, _ = fields
        segments.append(
            Segment(
                kind=kind,
                offset=FileOffset(place),
                address=ElfAddr(address),
                file_size=file_size,
                memory_size=memory_size,
                is_executable=bool(flags & _PF_X),
                is_writable=bool(flags & _PF_W),
            )
        )
    return tuple(segments)


def _read_sections(
    source: Source, elf_class: int, offset: int, size: int, count: int, names_index: int
) -> tuple[Section, ...]:
    layout = _SECTION_HEADER[elf_class]
    if offset == 0 or size != layout.size or offset + size > source.size:
        return ()
    first = layout.unpack(source.read(offset, size))
    # Counts that do not fit the file header are in section 0 (System V ABI, chapter 4).
    if count == 0:
        count = first[5]
    if names_index == _SHN_XINDEX:
        names_index = first[6]
    if not 0 < count <= _MOST_SECTIONS or offset + count * size > source.size:
        return ()
    rows = list(layout.iter_unpack(source.read(offset, count * size)))
    names = b""
    if 0 < names_index < count:
        names_offset, names_size = rows[names_index][4:6]
        if names_size <= _MOST_SECTION_NAMES and names_offset + names_size <= source.size:
            names = source.read(names_offset, names_size)
    return tuple(
        Section(
            name=_string(names, row[0]),
            kind=row[1],
            offset=FileOffset(row[4]),
            size=row[5],
            link=row[6],
            is_executable=bool(row[2] & _SHF_EXECINSTR),
            address=ElfAddr(row[3]),
            is_compressed=bool(row[2] & _SHF_COMPRESSED),
        )
        for row in rows
    )


def _string(table: bytes, offset: int) -> str:
    # Names that are looked for are short; a name without an end is none of them.
    end = table.find(b"\0", offset, offset + 64)
    return table[offset:end].decode("ascii", "replace") if end > 0 else ""
