"""Names for the stubs of the procedure linkage table, which have no symbols.

A stub jumps through a word of the global offset table, and a relocation says of that word whose
address it is to hold (System V ABI, AMD64 supplement, 5.2, and Intel386 supplement, 5.2):
`getppid@plt`, as debuggers have it.
"""

from __future__ import annotations

import struct
from typing import Final

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.headers import PT_LOAD, Headers
from ptrace_uprobes.symbols.source import Source

__all__ = ["global_offset_table", "linkage_tables", "stub_names"]

_X86_64: Final = 62
_I386: Final = 3
_ENDBR: Final = (b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfb")  # endbr64, endbr32
_SECTIONS: Final = {".plt": 16, ".plt.sec": 16, ".plt.got": 8}
"""And how large a stub is; those of `.plt.got` are of 16 bytes where they begin with endbr."""
_GLOB_DAT: Final = 6
_JUMP_SLOT: Final = 7
_RELOCATIONS: Final = {
    _X86_64: ((".rela.plt", ".rela.dyn"), struct.Struct("<QQ8x"), 32),
    _I386: ((".rel.plt", ".rel.dyn"), struct.Struct("<II"), 8),
}
"""The sections, the form of an entry, and how many bits of its second word are the type; Elf32_Rel
has no addend."""
_JUMP: Final = b"\xff\x25"  # jmp *n(%rip); jmp *n in 32-bit code
_JUMP_BY_EBX: Final = b"\xff\xa3"  # jmp *n(%ebx), which holds the global offset table's address
_SYMBOL_SIZE: Final = {_X86_64: 24, _I386: 16}
_LONGEST_NAME: Final = 1 << 14
_MOST_BYTES: Final = 1 << 23


def stub_names(source: Source, headers: Headers) -> dict[int, str]:
    """The names of the stubs by every multiple of 8 bytes in them, in the file's addresses."""
    machine = headers.machine
    if machine not in _RELOCATIONS:
        return {}
    symbols, strings = (_content(source, headers, name)[0] for name in (".dynsym", ".dynstr"))
    words = _words(source, headers)
    table = global_offset_table(source, headers)
    names: dict[int, str] = {}
    of_symbols: dict[int, str] = {}
    room = _MOST_BYTES
    for section, size in _SECTIONS.items():
        content, address = _content(source, headers, section)
        if section == ".plt.got" and content[:4] in _ENDBR:
            size = 16
        for at in range(0, len(content) - size + 1, size):
            word = _word_of(content[at : at + size], address + at, machine, table)
            number = 0 if word is None else words.get(word, 0)
            name = of_symbols.get(number, "")
            if not name:
                name = of_symbols[number] = _name(symbols, strings, number, _SYMBOL_SIZE[machine])
                room -= len(name)
            if room < 0:
                return {}  # the names overlap: this is no linker's work
            if name:
                for part in range(0, size, 8):
                    names[address + at + part] = name
    return names


def linkage_tables(headers: Headers) -> tuple[range, ...]:
    """Where stubs are, in the file's addresses: also those without a name, whose function the
    dynamic linker has an IFUNC resolver choose (R_X86_64_IRELATIVE)."""
    sections = [headers.section(name) for name in _SECTIONS]
    return tuple(range(one.address, one.address + one.size) for one in sections if one is not None)


def global_offset_table(source: Source, headers: Headers) -> int | None:
    """What EBX holds in i386's stubs, in the file's addresses."""
    if headers.machine == _I386:
        for name in (".got.plt", ".got"):
            address = _content(source, headers, name)[1]
            if address:
                return address
    return None


def _word_of(stub: bytes, address: int, machine: int, table: int | None) -> int | None:
    """The address of the word that the stub at `address` jumps through."""
    at = stub.find(_JUMP)
    base = address + at + 6 if machine == _X86_64 else 0
    if at < 0 and table is not None:
        at, base = stub.find(_JUMP_BY_EBX), table
    if not 0 <= at <= len(stub) - 6:
        return None
    distance: int = struct.unpack_from("<i", stub, at + 2)[0]
    return base + distance & (0xFFFFFFFF if machine == _I386 else (1 << 64) - 1)


def _name(symbols: bytes, strings: bytes, number: int, size: int) -> str:
    if not 0 < number < len(symbols) // size:
        return ""
    start = struct.unpack_from("<I", symbols, number * size)[0]
    end = strings.find(b"\0", start, start + _LONGEST_NAME)
    return strings[start:end].decode("utf-8", "surrogateescape") if end > start else ""


def _words(source: Source, headers: Headers) -> dict[int, int]:
    """The symbols, by number, that words of the global offset table are to point to."""
    words = {}
    sections, entry, bits = _RELOCATIONS[headers.machine]
    for section in sections:
        content, _ = _content(source, headers, section)
        whole = len(content) - len(content) % entry.size
        for offset, info in entry.iter_unpack(content[:whole]):
            if info & (1 << bits) - 1 in (_GLOB_DAT, _JUMP_SLOT):
                words[offset] = info >> bits
    return words


def _content(source: Source, headers: Headers, name: str) -> tuple[bytes, int]:
    section = headers.section(name)
    if section is None or section.size > _MOST_BYTES:
        return b"", 0
    for segment in headers.segments:
        delta = section.offset - segment.offset
        if segment.kind == PT_LOAD and 0 <= delta < segment.file_size:
            try:
                return source.read(section.offset, section.size), segment.address + delta
            except UnreadableElf:
                break
    return b"", 0
