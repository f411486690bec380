"""Where the fields of an x86 instruction lie, in 64-bit mode or in 32-bit protected mode.

Only lengths and positions, from the opcode maps of the Intel SDM (volume 2, appendix A)
and AMD's APM (volume 3, appendix A). The planner decides by these bytes and not by a
disassembler's mnemonics; the disassembler's idea of the length is a cross-check.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["MAX_SIZE", "Encoding", "Encoding32", "Family", "Prefix", "measure"]

MAX_SIZE = 15


class Family(enum.Enum):
    """What introduces the opcode."""

    LEGACY = "legacy"
    VEX = "vex"
    EVEX = "evex"
    XOP = "xop"


class Prefix:
    """Bits of `Encoding.prefixes`. Plain numbers: an enum.Flag costs a microsecond a test."""

    OPERAND_SIZE = 0x01
    ADDRESS_SIZE = 0x02
    LOCK = 0x04
    REPNE = 0x08
    REP = 0x10
    FS = 0x20
    GS = 0x40
    OTHER_SEGMENT = 0x80
    """ES, CS, SS or DS: without effect in 64-bit mode."""


_PREFIX_BITS = {
    0x66: Prefix.OPERAND_SIZE,
    0x67: Prefix.ADDRESS_SIZE,
    0xF0: Prefix.LOCK,
    0xF2: Prefix.REPNE,
    0xF3: Prefix.REP,
    0x64: Prefix.FS,
    0x65: Prefix.GS,
    0x26: Prefix.OTHER_SEGMENT,
    0x2E: Prefix.OTHER_SEGMENT,
    0x36: Prefix.OTHER_SEGMENT,
    0x3E: Prefix.OTHER_SEGMENT,
}


@dataclass(frozen=True, slots=True)
class Encoding:
    """The anatomy of one instruction; offsets count from its first byte."""

    bits: ClassVar[int] = 64
    """The mode it is for."""
    word_size: ClassVar[int] = 8
    """Bytes that a push or a near call takes, without a prefix."""
    address_mask: ClassVar[int] = (1 << 64) - 1
    """Addresses wrap there."""

    size: int
    family: Family
    opcode_map: int
    """0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A; for VEX, EVEX and XOP their own map number."""
    opcode: int
    prefixes: int
    """Bits of `Prefix`."""
    rex: int
    """The REX prefix that takes effect, or 0."""
    vector_prefix_offset: int
    """Where C4, C5, 62 or 8F stands; meaningless for `Family.LEGACY`."""
    opcode_offset: int
    modrm: int
    """The ModRM byte, or -1."""
    displacement_offset: int
    displacement_size: int
    immediate_offset: int
    immediate_size: int

    @property
    def mode(self) -> int:
        return self.modrm >> 6

    @property
    def reg(self) -> int:
        """The ModRM byte's middle field, without REX.R: an opcode extension or a register."""
        return self.modrm >> 3 & 7

    @property
    def rm(self) -> int:
        return self.modrm & 7

    @property
    def has_memory_operand(self) -> bool:
        return self.modrm >= 0 and self.modrm < 0xC0 and not self._is_register_only

    @property
    def is_rip_relative(self) -> bool:
        # SDM volume 2, 2.2.1.6: mod 00, r/m 101, whatever REX.B says.
        return self.modrm & 0xC7 == 0x05 and self.modrm >= 0 and not self._is_register_only

    @property
    def has_short_addresses(self) -> bool:
        """The memory operand has one of the 16-bit forms (SDM volume 2, table 2-1)."""
        return False

    @property
    def wide(self) -> bool:
        """REX.W is set."""
        return self.rex & 8 != 0

    @property
    def _is_register_only(self) -> bool:
        # MOV to and from control and debug registers ignore the mod field.
        return self.family is Family.LEGACY and self.opcode_map == 1 and 0x20 <= self.opcode <= 0x23


@dataclass(frozen=True, slots=True)
class Encoding32(Encoding):
    """The same of an instruction in 32-bit mode, which has no REX prefix."""

    bits: ClassVar[int] = 32
    word_size: ClassVar[int] = 4
    address_mask: ClassVar[int] = (1 << 32) - 1

    @property
    def is_rip_relative(self) -> bool:
        return False

    @property
    def has_short_addresses(self) -> bool:
        return self.prefixes & Prefix.ADDRESS_SIZE != 0


# One byte of attributes an opcode: what follows it.
_MODRM = 0x80
_NONE, _IMM8, _IMM16, _IMMZ, _IMMV, _MOFFS, _ENTER, _IMM32, _FAR, _TEST, _EXTRQ = range(11)
_INVALID = 0xFF


def _table(*rows: tuple[Iterable[int], int], base: bytes = bytes([_INVALID] * 256)) -> bytes:
    table = bytearray(base)
    for opcodes, attributes in rows:
        for opcode in opcodes:
            table[opcode] = attributes
    return bytes(table)


_ARITHMETIC = range(0x00, 0x40, 8)
_ONE_BYTE = _table(
    ([base + low for base in _ARITHMETIC for low in range(4)], _MODRM),
    ([base + 4 for base in _ARITHMETIC], _IMM8),
    ([base + 5 for base in _ARITHMETIC], _IMMZ),
    (range(0x50, 0x60), _NONE),
    ([0x63], _MODRM),
    ([0x68], _IMMZ),
    ([0x69], _MODRM | _IMMZ),
    ([0x6A], _IMM8),
    ([0x6B], _MODRM | _IMM8),
    (range(0x6C, 0x70), _NONE),
    (range(0x70, 0x80), _IMM8),
    ([0x80, 0x83], _MODRM | _IMM8),
    ([0x81], _MODRM | _IMMZ),
    (range(0x84, 0x90), _MODRM),
    ([*range(0x90, 0x9A), *range(0x9B, 0xA0)], _NONE),
    (range(0xA0, 0xA4), _MOFFS),
    ([*range(0xA4, 0xA8), *range(0xAA, 0xB0)], _NONE),
    ([0xA8], _IMM8),
    ([0xA9], _IMMZ),
    (range(0xB0, 0xB8), _IMM8),
    (range(0xB8, 0xC0), _IMMV),
    ([0xC0, 0xC1, 0xC6], _MODRM | _IMM8),
    ([0xC7], _MODRM | _IMMZ),
    ([0xC2, 0xCA], _IMM16),
    ([0xC3, 0xC9, 0xCB, 0xCC, 0xCF], _NONE),
    ([0xC8], _ENTER),
    ([0xCD], _IMM8),
    ([*range(0xD0, 0xD4), *range(0xD8, 0xE0)], _MODRM),
    ([0xD7], _NONE),
    ([*range(0xE0, 0xE8), 0xEB], _IMM8),
    ([0xE8, 0xE9], _IMM32),
    ([*range(0xEC, 0xF0), 0xF1, 0xF4, 0xF5], _NONE),
    ([0xF6, 0xF7], _MODRM | _TEST),
    ([0xFE, 0xFF], _MODRM),
    (range(0xF8, 0xFE), _NONE),
)
_TWO_BYTE = _table(
    (
        [*range(0x04), 0x0D, *range(0x10, 0x24), *range(0x28, 0x30), *range(0x40, 0x77)],
        _MODRM,
    ),
    ([*range(0x05, 0x0A), 0x0B, 0x0E, *range(0x30, 0x36), 0x37, 0x77], _NONE),
    ([0x0F, *range(0x70, 0x74)], _MODRM | _IMM8),  # 0F 0F: 3DNow!, its opcode comes last
    ([0x78], _MODRM | _EXTRQ),
    (range(0x79, 0x80), _MODRM),
    (range(0x80, 0x90), _IMM32),
    (range(0x90, 0xA0), _MODRM),
    ([*range(0xA0, 0xA3), *range(0xA8, 0xAB), *range(0xC8, 0xD0)], _NONE),
    ([0xA3, 0xA5, 0xA6, 0xA7, 0xAB, *range(0xAD, 0xBA), *range(0xBB, 0xC2)], _MODRM),
    ([0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6], _MODRM | _IMM8),
    ([0xC3, 0xC7, *range(0xD0, 0x100)], _MODRM),
)
_SIZES = {_IMM8: 1, _IMM16: 2, _IMM32: 4, _ENTER: 3, _IMMV: 8}
# 32-bit mode: the columns "i64" and "f64" of the SDM's opcode maps, and the pushes and pops
# and single-byte increments whose place 64-bit mode gives to REX or leaves empty.
_ONE_BYTE_32 = _table(
    ([0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F], _NONE),
    ([0x27, 0x2F, 0x37, 0x3F], _NONE),
    (range(0x40, 0x50), _NONE),
    ([0x60, 0x61, 0xCE, 0xD6], _NONE),
    ([0x62, 0xC4, 0xC5], _MODRM),
    ([0x82], _MODRM | _IMM8),
    ([0x9A, 0xEA], _FAR),
    ([0xD4, 0xD5], _IMM8),
    ([0xE8, 0xE9], _IMMZ),
    base=_ONE_BYTE,
)
_TWO_BYTE_32 = _table((range(0x80, 0x90), _IMMZ), base=_TWO_BYTE)
_ALL_MODRM = _table((range(256), _MODRM))
_ALL_MODRM_IMM8 = _table((range(256), _MODRM | _IMM8))
_ALL_MODRM_IMM32 = _table((range(256), _MODRM | _IMM32))
_VECTOR_TWO_BYTE = _table(
    (range(256), _MODRM),
    ([*range(0x70, 0x74), 0xC2, 0xC4, 0xC5, 0xC6], _MODRM | _IMM8),
    ([0x77], _NONE),  # vzeroupper, vzeroall
)

_LEGACY_MAPS = (_ONE_BYTE, _TWO_BYTE, _ALL_MODRM, _ALL_MODRM_IMM8)
_LEGACY_MAPS_32 = (_ONE_BYTE_32, _TWO_BYTE_32, _ALL_MODRM, _ALL_MODRM_IMM8)
_VECTOR_MAPS = {
    (Family.VEX, 1): _VECTOR_TWO_BYTE,
    (Family.VEX, 2): _ALL_MODRM,
    (Family.VEX, 3): _ALL_MODRM_IMM8,
    (Family.EVEX, 1): _VECTOR_TWO_BYTE,
    (Family.EVEX, 2): _ALL_MODRM,
    (Family.EVEX, 3): _ALL_MODRM_IMM8,
    (Family.EVEX, 5): _ALL_MODRM,
    (Family.EVEX, 6): _ALL_MODRM,
    (Family.XOP, 8): _ALL_MODRM_IMM8,
    (Family.XOP, 9): _ALL_MODRM,
    (Family.XOP, 10): _ALL_MODRM_IMM32,
}


def measure(code: bytes, bits: int = 64) -> Encoding | None:
    """The anatomy of the instruction that `code` starts with, in the mode of `bits`: 64 or 32.

    None if its map or opcode is not defined in that mode, or `code` ends too early.
    """
    try:
        encoding = _measure(code, bits == 64)
    except IndexError:
        return None
    if encoding is None or encoding.size > min(len(code), MAX_SIZE):
        return None
    return encoding


def _measure(code: bytes, long_mode: bool) -> Encoding | None:
    prefixes = rex = offset = 0
    while True:
        byte = code[offset]
        if byte & 0xF0 == 0x40 and long_mode:
            # A REX prefix counts only right before the opcode (SDM volume 2, 2.2.1).
            rex = byte
        elif byte in _PREFIX_BITS:
            prefixes |= _PREFIX_BITS[byte]
            rex = 0
        else:
            break
        offset += 1

    family, opcode_map = Family.LEGACY, 0
    legacy_maps = _LEGACY_MAPS if long_mode else _LEGACY_MAPS_32
    table = legacy_maps[0]
    vector_prefix_offset = offset
    if byte == 0x0F:
        offset += 1
        opcode_map = {0x38: 2, 0x3A: 3}.get(code[offset], 1)
        offset += opcode_map > 1
        table = legacy_maps[opcode_map]
    elif (byte in (0xC4, 0xC5, 0x62) and (long_mode or code[offset + 1] >= 0xC0)) or (
        # In 32-bit mode these are LES, LDS and BOUND, which have no register form.
        byte == 0x8F and code[offset + 1] & 0x1F >= 8
    ):
        if byte == 0xC5:
            family, opcode_map, offset = Family.VEX, 1, offset + 2
        elif byte == 0xC4:
            family, opcode_map, offset = Family.VEX, code[offset + 1] & 0x1F, offset + 3
        elif byte == 0x8F:
            family, opcode_map, offset = Family.XOP, code[offset + 1] & 0x1F, offset + 3
        else:
            family, opcode_map, offset = Family.EVEX, code[offset + 1] & 0x07, offset + 4
        found = _VECTOR_MAPS.get((family, opcode_map))
        if found is None:
            return None
        table = found
    opcode = code[offset]
    opcode_offset = offset
    attributes = table[opcode]
    if attributes == _INVALID:
        return None
    offset += 1

    modrm = -1
    displacement_offset = displacement_size = 0
    if attributes & _MODRM:
        modrm = code[offset]
        offset += 1
        if modrm < 0xC0 and not (
            family is Family.LEGACY and opcode_map == 1 and 0x20 <= opcode <= 0x23
        ):
            mode, rm = modrm >> 6, modrm & 7
            # 67 halves addresses: 32 bits have the same forms as 64, 16 have their own.
            short_addresses = 0 if long_mode else Prefix.ADDRESS_SIZE
            if mode == 1:
                displacement_size = 1
            elif prefixes & short_addresses:
                displacement_size = 2 if mode == 2 or rm == 6 else 0
            elif mode == 2 or rm == 5:
                displacement_size = 4
            if rm == 4 and not prefixes & short_addresses:
                if mode == 0 and code[offset] & 7 == 5:
                    displacement_size = 4
                offset += 1
            displacement_offset = offset
            offset += displacement_size
    kind = attributes & 0x7F
    if kind == _NONE:
        immediate_size = 0
    elif kind == _MOFFS:
        immediate_size = (8 if long_mode else 4) >> (prefixes & Prefix.ADDRESS_SIZE != 0)
    else:
        immediate_size = _immediate_size(kind, opcode, modrm, prefixes, rex)
    return (Encoding if long_mode else Encoding32)(
        size=offset + immediate_size,
        family=family,
        opcode_map=opcode_map,
        opcode=opcode,
        prefixes=prefixes,
        rex=rex if family is Family.LEGACY else 0,
        vector_prefix_offset=vector_prefix_offset,
        opcode_offset=opcode_offset,
        modrm=modrm,
        displacement_offset=displacement_offset,
        displacement_size=displacement_size,
        immediate_offset=offset,
        immediate_size=immediate_size,
    )


def _immediate_size(kind: int, opcode: int, modrm: int, prefixes: int, rex: int) -> int:
    if kind == _TEST:
        if modrm & 0x30:
            return 0
        kind = _IMM8 if opcode == 0xF6 else _IMMZ  # TEST is /0 and its alias /1
    elif kind == _EXTRQ:
        # EXTRQ and INSERTQ (SSE4a) have two immediate bytes, VMREAD none.
        return 2 if prefixes & (Prefix.OPERAND_SIZE | Prefix.REPNE) else 0
    if kind == _IMMZ or (kind == _IMMV and not rex & 8):
        return 2 if prefixes & Prefix.OPERAND_SIZE and not rex & 8 else 4
    if kind == _FAR:
        return 4 if prefixes & Prefix.OPERAND_SIZE else 6
    return _SIZES[kind]
