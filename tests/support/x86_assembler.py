"""Machine code from operands chosen at random: every ModRM form, as tests need it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Absolute", "Based", "Operand", "Register", "RipRelative", "legacy", "vector"]


@dataclass(frozen=True, slots=True)
class Register:
    number: int


@dataclass(frozen=True, slots=True)
class RipRelative:
    target: int
    """Absolute."""


@dataclass(frozen=True, slots=True)
class Based:
    """base + index << shift + displacement; an index of None or 4 is no index."""

    base: int
    index: int | None = None
    shift: int = 0
    displacement: int = 0


@dataclass(frozen=True, slots=True)
class Absolute:
    """A signed 32-bit address."""

    address: int


Operand = Register | RipRelative | Based | Absolute


def _operand(reg: int, operand: Operand, *, disp8: bool = True) -> tuple[bytes, int]:
    """ModRM, SIB and displacement (0 for RIP-relative), and the X and B bits."""
    reg = (reg & 7) << 3
    if isinstance(operand, Register):
        return bytes([0xC0 | reg | operand.number & 7]), operand.number >> 3
    if isinstance(operand, RipRelative):
        return bytes([reg | 5, 0, 0, 0, 0]), 0
    if isinstance(operand, Absolute):
        displacement = operand.address.to_bytes(4, "little", signed=True)
        return bytes([reg | 4, 0x25]) + displacement, 0
    extra = operand.base >> 3
    if operand.displacement == 0 and operand.base & 7 != 5:
        mode, displacement = 0x00, b""
    elif disp8 and -128 <= operand.displacement <= 127:
        mode, displacement = 0x40, operand.displacement.to_bytes(1, "little", signed=True)
    else:
        mode, displacement = 0x80, operand.displacement.to_bytes(4, "little", signed=True)
    if operand.index is None and operand.base & 7 != 4:
        return bytes([mode | reg | operand.base & 7]) + displacement, extra
    index = 4 if operand.index is None else operand.index
    extra |= index >> 3 << 1
    sib = operand.shift << 6 | (index & 7) << 3 | operand.base & 7
    return bytes([mode | reg | 4, sib]) + displacement, extra


def _placed(head: bytes, operand_bytes: bytes, tail: bytes, operand: Operand, at: int) -> bytes:
    """With the displacement of a RIP-relative operand."""
    if isinstance(operand, RipRelative):
        size = len(head) + len(operand_bytes) + len(tail)
        displacement = (operand.target - at - size) & 0xFFFF_FFFF
        operand_bytes = operand_bytes[:1] + displacement.to_bytes(4, "little")
    return head + operand_bytes + tail


def legacy(
    opcode: bytes,
    reg: int,
    operand: Operand,
    at: int,
    *,
    prefixes: bytes = b"",
    wide: bool = False,
    immediate: bytes = b"",
) -> bytes:
    """`opcode` with its escape bytes; a REX prefix where one is needed."""
    operand_bytes, extra = _operand(reg, operand)
    rex = wide << 3 | reg >> 3 << 2 | extra
    head = prefixes + (bytes([0x40 | rex]) if rex else b"") + opcode
    return _placed(head, operand_bytes, immediate, operand, at)


def vector(
    opcode_map: int,
    pp: int,
    opcode: int,
    reg: int,
    vvvv: int,
    operand: Operand,
    at: int,
    *,
    wide: bool = False,
    length: int = 0,
    immediate: bytes = b"",
    evex: bool = False,
) -> bytes:
    """A VEX or EVEX instruction; the two-byte form of VEX where it can say it all."""
    # EVEX scales an 8-bit displacement: the 32-bit form is as good here.
    operand_bytes, extra = _operand(reg, operand, disp8=not evex)
    r, x, b = (reg >> 3 ^ 1) & 1, (extra >> 1 ^ 1) & 1, (extra ^ 1) & 1
    low = (~vvvv & 15) << 3 | pp
    if evex:
        first = r << 7 | x << 6 | b << 5 | 1 << 4 | opcode_map
        second = wide << 7 | low | 4
        head = bytes([0x62, first, second, length << 5 | 8])
    elif opcode_map == 1 and x and b and not wide:
        head = bytes([0xC5, r << 7 | length << 2 | low])
    else:
        head = bytes([0xC4, r << 7 | x << 6 | b << 5 | opcode_map, wide << 7 | length << 2 | low])
    return _placed(head + bytes([opcode]), operand_bytes, immediate, operand, at)
