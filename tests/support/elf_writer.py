"""Small ELF files made to measure: what no linker writes, and what one would."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ElfSymbol", "section_headers_at", "write_elf"]

PAGE = 0x1000
TEXT = 0x1000
"""Where the code is, in the file and in memory."""

_HEADER = {32: "<HHIIIIIHHHHHH", 64: "<HHIQQQIHHHHHH"}
_PROGRAM = {32: "<IIIIIIII", 64: "<IIQQQQQQ"}
_SECTION = {32: "<IIIIIIIIII", 64: "<IIQQQQIIQQ"}


@dataclass(frozen=True, slots=True)
class ElfSymbol:
    """A symbol to be; `name` may be an offset into the string table instead."""

    name: str | int
    value: int
    size: int = 16
    kind: int = 2  # STT_FUNC
    binding: int = 1  # STB_GLOBAL
    section: int = 1


def write_elf(
    symbols: Sequence[ElfSymbol] = (),
    *,
    elf_class: int = 64,
    kind: int = 3,  # ET_DYN
    strings: bytes | None = None,
    dynamic_symbols: bool = False,
    code_size: int = 0x1000,
) -> bytes:
    """A file with one executable segment at `TEXT`, and one symbol table."""
    table = bytearray(b"\0" if strings is None else strings)
    rows = [_symbol(elf_class, 0, ElfSymbol("", 0, 0, 0, 0, 0))]
    places: dict[str, int] = {}
    for symbol in symbols:
        if isinstance(symbol.name, int):
            place = symbol.name
        elif symbol.name in places:
            place = places[symbol.name]
        else:
            place = places[symbol.name] = len(table)
            table += symbol.name.encode() + b"\0"
        rows.append(_symbol(elf_class, place, symbol))
    symbol_bytes = b"".join(rows)
    names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"

    symbols_at = TEXT + code_size
    strings_at = symbols_at + len(symbol_bytes)
    names_at = strings_at + len(table)
    sections_at = names_at + len(names)

    sections = b"".join(
        _section(elf_class, *fields)
        for fields in (
            (0, 0, 0, 0, 0, 0),
            (names.index(b".text"), 1, TEXT, TEXT, code_size, 0),
            (
                names.index(b".symtab"),
                11 if dynamic_symbols else 2,
                0,
                symbols_at,
                len(symbol_bytes),
                3,
            ),
            (names.index(b".strtab"), 3, 0, strings_at, len(table), 0),
            (names.index(b".shstrtab"), 3, 0, names_at, len(names), 0),
        )
    )
    header_size = 16 + struct.calcsize(_HEADER[elf_class])
    identity = b"\x7fELF" + bytes((elf_class // 32, 1, 1)) + bytes(9)
    header = identity + struct.pack(
        _HEADER[elf_class],
        kind,
        62 if elf_class == 64 else 3,
        1,
        TEXT,
        header_size,
        sections_at,
        0,
        header_size,
        struct.calcsize(_PROGRAM[elf_class]),
        1,
        struct.calcsize(_SECTION[elf_class]),
        5,
        4,
    )
    program = (
        struct.pack(_PROGRAM[64], 1, 5, TEXT, TEXT, TEXT, code_size, code_size, PAGE)
        if elf_class == 64
        else struct.pack(_PROGRAM[32], 1, TEXT, TEXT, TEXT, code_size, code_size, 5, PAGE)
    )
    head = (header + program).ljust(TEXT, b"\0")
    code = b"\xc3" * code_size  # ret
    return head + code + symbol_bytes + bytes(table) + names + sections


def section_headers_at(image: bytes) -> int:
    """Where the section headers of a 64-bit file begin."""
    return int(struct.unpack_from("<Q", image, 40)[0])


def _symbol(elf_class: int, name: int, symbol: ElfSymbol) -> bytes:
    info = symbol.binding << 4 | symbol.kind
    if elf_class == 64:
        return struct.pack("<IBBHQQ", name, info, 0, symbol.section, symbol.value, symbol.size)
    return struct.pack("<IIIBBH", name, symbol.value, symbol.size, info, 0, symbol.section)


def _section(
    elf_class: int, name: int, kind: int, address: int, offset: int, size: int, link: int
) -> bytes:
    return struct.pack(_SECTION[elf_class], name, kind, 0, address, offset, size, link, 0, 1, 0)
