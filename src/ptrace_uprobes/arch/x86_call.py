"""What stands before a return address."""

from __future__ import annotations

from typing import Final

__all__ = ["LONGEST_CALL", "ends_with_call"]

LONGEST_CALL: Final = 7
"""Bytes: FF /2 with a SIB byte and a displacement of 32 bits, without prefixes."""


def ends_with_call(before: bytes) -> bool:
    """Whether the last of these `LONGEST_CALL` bytes can be the last of a call instruction."""
    if len(before) != LONGEST_CALL:
        return False
    if before[2] == 0xE8:  # call rel32
        return True
    # call r/m64: FF /2, with a SIB byte and a displacement or without
    for length in (2, 3, 4, 6, 7):
        opcode, modrm = before[-length], before[-length + 1]
        if opcode != 0xFF or modrm >> 3 & 7 != 2:
            continue
        mode, operand = modrm >> 6, modrm & 7
        size = 2 + (operand == 4 and mode != 3)
        size += 4 if mode == 2 or (mode == 0 and operand == 5) else int(mode == 1)
        if mode == 0 and operand == 4 and length > 3 and before[-length + 2] & 7 == 5:
            size += 4
        if size == length:
            return True
    return False
