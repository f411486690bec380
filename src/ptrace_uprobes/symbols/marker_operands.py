"""Arguments of USDT markers: `-4@%edi`, `8@-80(%rbx)`, `4@counter(%rip)`, parsed.

The compiler fills in an operand of an `asm` (SDT_ARG of <sys/sdt.h>), so it is what GCC or
Clang would write there for an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ptrace_uprobes.definition.fetcharg import (
    Dereference,
    FileMemory,
    Immediate,
    Operand,
    Register,
    Source,
    Sum,
)
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.symbols.markers import Marker

__all__ = ["operands_of", "parse_operand"]

_OPERAND: Final = re.compile(r"(?:(-?)([1248])@)?(.+)")
_NUMBER: Final = r"[+-]?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})"
_IMMEDIATE: Final = re.compile(rf"\$({_NUMBER})")
_MEMORY: Final = re.compile(rf"({_NUMBER})?\((%[a-z0-9]+)?(?:,(%[a-z0-9]+)(?:,([1248]))?)?\)")
# `@GOTOFF`: the register holds the address of a table of the file's own, and what is added to it
# leads to the variable (i386's position-independent code).
_OF_FILE: Final = re.compile(
    rf"(?:({_NUMBER})\+)?([A-Za-z_.$][\w.$]*)((?:[+-][0-9]+)*)(?:@GOTOFF\(%e[a-z]{{2}}\)|\(%[re]ip\))?"
)

_LETTERS: Final = ("a", "b", "c", "d")
_WORDS: Final = ("si", "di", "bp", "sp")


def _registers() -> dict[str, tuple[str, int, int]]:
    """Every name of a general register: the kernel's name for it, its bits, its shift."""
    known: dict[str, tuple[str, int, int]] = {}
    for letter in _LETTERS:
        full = f"{letter}x"
        known |= {f"r{full}": (full, 64, 0), f"e{full}": (full, 32, 0), full: (full, 16, 0)}
        known |= {f"{letter}l": (full, 8, 0), f"{letter}h": (full, 8, 8)}
    for full in _WORDS:
        known |= {f"r{full}": (full, 64, 0), f"e{full}": (full, 32, 0), full: (full, 16, 0)}
        known[f"{full}l"] = (full, 8, 0)
    for number in range(8, 16):
        full = f"r{number}"
        known |= {full: (full, 64, 0), f"{full}d": (full, 32, 0)}
        known |= {f"{full}w": (full, 16, 0), f"{full}b": (full, 8, 0)}
    return known


_REGISTERS: Final = _registers()


def operands_of(image: Image, marker: Marker) -> list[Operand | str]:
    """The marker's arguments; as text what is not understood."""

    def offset_of_symbol(name: str) -> int | None:
        # As far from the marker in memory as `@+OFFSET` is from its place in the file.
        variable, offset = image.variable(name), image.offset_of(marker.address)
        return None if variable is None or offset is None else variable - marker.address + offset

    word_size = image.elf_class // 8
    return [parse_operand(text, word_size, offset_of_symbol) for text in marker.arguments]


def parse_operand(
    text: str, word_size: int, offset_of_symbol: Callable[[str], int | None]
) -> Operand | str:
    """The operand; the text itself where it is not understood.

    `offset_of_symbol` gives where a variable is, as `@+OFFSET` counts; None if it is unknown.
    """
    parts = _OPERAND.fullmatch(text)
    if parts is None:
        return text
    sign, size, operand = parts.groups()
    bits = 8 * (int(size) if size else word_size)
    is_signed = sign == "-"
    if operand.startswith("%"):
        register = _REGISTERS.get(operand[1:])
        if register is None:
            return text
        name, width, shift = register
        return Operand(Register(name), min(bits, width), is_signed, shift)
    if immediate := _IMMEDIATE.fullmatch(operand):
        return Operand(Immediate(int(immediate.group(1), 0)), bits, is_signed)
    source = _memory(operand) or _of_file(operand, offset_of_symbol)
    return text if source is None else Operand(source, bits, is_signed)


def _memory(operand: str) -> Source | None:
    match = _MEMORY.fullmatch(operand)
    if match is None:
        return None
    displacement, base_name, index_name, scale = match.groups()
    base, index = _address_register(base_name), _address_register(index_name)
    offset = int(displacement or "0", 0)
    if index is not None and (base is not None or base_name is None):
        return Dereference(Sum(base, index, int(scale or 1)), offset)
    return None if base is None or index_name is not None else Dereference(base, offset)


def _address_register(name: str | None) -> Register | None:
    known = None if name is None else _REGISTERS.get(name[1:])
    return None if known is None or known[1] < 32 else Register(known[0])


def _of_file(operand: str, offset_of_symbol: Callable[[str], int | None]) -> Source | None:
    match = _OF_FILE.fullmatch(operand)
    if match is None:
        return None
    before, symbol, after = match.groups()
    offset = offset_of_symbol(symbol)
    if offset is None:
        return None
    offset += int(before or "0", 0) + sum(map(int, re.findall(r"[+-][0-9]+", after)))
    return FileMemory(offset)
