"""The program of a unit of `.debug_line`, run: where the code of a source line begins.

DWARF 5, 6.2.5. A line may begin at several places: a loop's head is reached twice, and a function
that was inlined is in each of its callers.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from ptrace_uprobes.symbols.line_units import LineUnit, read_uleb

__all__ = ["run_program"]

_COPY: Final = 1
_ADVANCE_PC: Final = 2
_ADVANCE_LINE: Final = 3
_SET_FILE: Final = 4
_NEGATE_STMT: Final = 6
_CONST_ADD_PC: Final = 8
_FIXED_ADVANCE_PC: Final = 9
_END_SEQUENCE: Final = 1
_SET_ADDRESS: Final = 2
_MASK: Final = (1 << 64) - 1


def run_program(
    section: bytes, unit: LineUnit, wanted: Container[int], line: int, lines: set[int]
) -> list[int]:
    """Where code of `line` of the files numbered `wanted` begins, as the file has addresses.

    `lines` is told which lines of these files have code. A program that is damaged is run as far
    as it goes. Runs through every row of a unit: a few million bytes a second.
    """
    found: list[int] = []
    try:
        _run(section, unit, wanted, line, lines, found)
    except IndexError:
        pass
    return found


def _run(
    section: bytes,
    unit: LineUnit,
    wanted: Container[int],
    line_wanted: int,
    lines: set[int],
    found: list[int],
) -> None:
    data, at = section, unit.start
    base, span, first = unit.line_base, unit.line_range, unit.opcode_base
    size = unit.minimum_size
    address, file, line, is_stmt = 0, 1, 1, unit.default_is_stmt
    is_dropped = True  # no address was set: code that the linker has left out has 0
    inside = taken = False
    while at < unit.end:
        opcode = data[at]
        at += 1
        if opcode >= first:
            step = opcode - first
            address += step // span * size
            line += base + step % span
        elif opcode == _COPY:
            pass
        elif opcode == 0:
            length, at = read_uleb(data, at)
            if not length:
                continue
            extended = data[at]
            if extended == _END_SEQUENCE:
                address, file, line, is_stmt = 0, 1, 1, unit.default_is_stmt
                is_dropped, inside = True, False
            elif extended == _SET_ADDRESS:
                address = int.from_bytes(data[at + 1 : at + length], "little")
                is_dropped = not address
            at += length
            continue
        else:
            if opcode == _ADVANCE_PC:
                value, at = read_uleb(data, at)
                address = address + value * size & _MASK
            elif opcode == _ADVANCE_LINE:
                value, at = _read_sleb(data, at)
                line += value
            elif opcode == _SET_FILE:
                file, at = read_uleb(data, at)
            elif opcode == _NEGATE_STMT:
                is_stmt = not is_stmt
            elif opcode == _CONST_ADD_PC:
                address += (255 - first) // span * size
            elif opcode == _FIXED_ADVANCE_PC:
                address += int.from_bytes(data[at : at + 2], "little")
                at += 2
            else:
                for _ in range(unit.operands[opcode - 1]):
                    at = read_uleb(data, at)[1]
            continue
        # A row. Of those of one line that follow each other, the first that a debugger would
        # stop at is where the line begins.
        if is_dropped:
            continue
        is_here = file in wanted
        if is_here and is_stmt:
            lines.add(line)
        if not is_here or line != line_wanted:
            inside = False
            continue
        if not inside:
            inside, taken = True, False
        if is_stmt and not taken:
            taken = True
            found.append(address)


def _read_sleb(data: bytes, at: int) -> tuple[int, int]:
    start = at
    value, at = read_uleb(data, at)
    bits = 7 * (at - start)
    if data[at - 1] & 0x40:
        value -= 1 << bits
    return value, at
