"""Names for the stubs of the procedure linkage table, which have no symbols.

A stub jumps through a word of the global offset table, and a relocation says of that word whose
address it is to hold (System V ABI, AMD64 supplement, 5.2): `getppid@plt`, as debuggers have it.
"""

from __future__ import annotations

import struct
from typing import Final

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.headers import PT_LOAD, Headers
from ptrace_uprobes.symbols.source import Source

__all__ = ["stub_names"]

_X86_64: Final = 62
_SECTIONS: Final = {".plt": 16, ".plt.sec": 16, ".plt.got": 8}
"""And how large a stub is; those of `.plt.got` are of 16 bytes where they begin with endbr64."""
_GLOB_DAT: Final = 6
_JUMP_SLOT: Final = 7
_RELOCATION: Final = struct.Struct("<QQq")
_JUMP: Final = b"\xff\x25"  # jmp *n(%rip)
_SYMBOL_SIZE: Final = 24
_LONGEST_NAME: Final = 1 << 14
_MOST_BYTES: Final = 1 << 23


def stub_names(source: Source, headers: Headers) -> dict[int, str]:
    """The names of the stubs by every multiple of 8 bytes in them, in the file's addresses."""
    if headers.machine != _X86_64:
        return {}
    symbols, strings = (_content(source, headers, name)[0] for name in (".dynsym", ".dynstr"))
    words = _words(source, headers)
    names: dict[int, str] = {}
    of_symbols: dict[int, str] = {}
    room = _MOST_BYTES
    for section, size in _SECTIONS.items():
        content, address = _content(source, headers, section)
        if section == ".plt.got" and content[:4] == b"\xf3\x0f\x1e\xfa":
            size = 16
        for at in range(0, len(content) - size + 1, size):
            jump = content.find(_JUMP, at, at + size)
            if jump < 0 or jump + 6 > len(content):
                continue
            word = address + jump + 6 + struct.unpack_from("<i", content, jump + 2)[0]
            number = words.get(word, 0)
            name = of_symbols.get(number, "")
            if not name:
                name = of_symbols[number] = _name(symbols, strings, number)
                room -= len(name)
            if room < 0:
                return {}  # the names overlap: this is no linker's work
            if name:
                for part in range(0, size, 8):
                    names[address + at + part] = name
    return names


def _name(symbols: bytes, strings: bytes, number: int) -> str:
    if not 0 < number < len(symbols) // _SYMBOL_SIZE:
        return ""
    start = struct.unpack_from("<I", symbols, number * _SYMBOL_SIZE)[0]
    end = strings.find(b"\0", start, start + _LONGEST_NAME)
    return strings[start:end].decode("utf-8", "surrogateescape") if end > start else ""


def _words(source: Source, headers: Headers) -> dict[int, int]:
    """The symbols, by number, that words of the global offset table are to point to."""
    words = {}
    for section in (".rela.plt", ".rela.dyn"):
        content, _ = _content(source, headers, section)
        whole = len(content) - len(content) % _RELOCATION.size
        for offset, info, _ in _RELOCATION.iter_unpack(content[:whole]):
            if info & 0xFFFFFFFF in (_GLOB_DAT, _JUMP_SLOT):
                words[offset] = info >> 32
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
