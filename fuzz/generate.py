"""Instructions to try: every opcode of every map with prefixes and forms, then bytes at random.

`code_number` gives each head (prefixes, escapes, opcode) once before any comes again: so the
first ten thousand of a campaign are spread evenly over all of them.
"""

from __future__ import annotations

import random
from typing import Final

__all__ = ["HEADS", "code_number"]

_PREFIXES: Final = (
    *(b"", b"\x66", b"\xf2", b"\xf3", b"\x48", b"\x66\x48", b"\xf3\x48", b"\xf2\x48"),
    *(b"\x67", b"\xf0", b"\x64", b"\x65\x41", b"\x4f", b"\x66\xf3", b"\x66\xf2"),
)
_ESCAPES: Final = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
_VEX_MAPS: Final = (1, 2, 3, 1, 2, 3, 5, 7)
_EVEX_MAPS: Final = (1, 2, 3, 1, 2, 3, 5, 6)
_XOP_MAPS: Final = (8, 9, 10)
_LEGACY_HEADS: Final = len(_PREFIXES) * len(_ESCAPES) * 256
_VEX_HEADS: Final = len(_VEX_MAPS) * 16 * 256
_EVEX_HEADS: Final = len(_EVEX_MAPS) * 8 * 256
_XOP_HEADS: Final = len(_XOP_MAPS) * 4 * 256
HEADS: Final = _LEGACY_HEADS + _VEX_HEADS + _EVEX_HEADS + _XOP_HEADS
"""How many there are."""
_STRIDE: Final = 2654435761
"""Prime, and so a generator of every number below `HEADS`."""
# What has a plan of its own gets more than its share: transfers, stacks, x87, strings.
_SPECIAL: Final = (
    *(bytes([op]) for op in (*range(0x50, 0x60), 0x68, 0x6A, *range(0x70, 0x80))),
    *(bytes([op]) for op in (0x8D, 0x8D, 0x8F, 0x9C, 0x9D, 0xC2, 0xC3, 0xC8, 0xC9, 0xCD)),
    *(bytes([op]) for op in (*range(0xA0, 0xB0), *range(0xD8, 0xE4), 0xE8, 0xE9, 0xEB)),
    *((b"\xff",) * 12),
    *(bytes([0x0F, op]) for op in (0x05, *range(0x80, 0x90), 0xAE, 0xC7, 0x01, 0x1E)),
)
_EXTRA: Final = (*b"\x66\xf2\xf3\x67\x2e\x3e\x36\x26\x64\x65\xf0", *range(0x40, 0x50))
# In 32-bit code there is no REX: these stand in its places.
_PREFIXES_32: Final = (
    *(b"", b"\x66", b"\xf2", b"\xf3", b"\x67", b"\x66\x67", b"\xf3\x66", b"\xf2\x66"),
    *(b"\x65\x67", b"\xf0", b"\x64", b"\x65", b"\x64\x67", b"\x26", b"\x36"),
)
_SPECIAL_32: Final = (
    *_SPECIAL,
    *(bytes([op]) for op in (*range(0x40, 0x50), 0x60, 0x61, 0x62, 0x82, 0xC4, 0xC5, 0xCE)),
    *(bytes([op]) for op in (0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F)),
    *(bytes([op]) for op in (0x8E, 0x8C, 0xD4, 0xD5, 0xD6, 0xE8, 0xFF)),
    *(b"\x0f\x34", b"\x0f\xa0", b"\x0f\xa1", b"\x0f\xa8", b"\x0f\xa9", b"\x0f\xb2"),
)
_EXTRA_32: Final = tuple(b"\x66\xf2\xf3\x67\x2e\x3e\x36\x26\x64\x65\xf0")


def code_number(number: int, source: random.Random, bits: int = 64) -> bytes:
    """Fifteen bytes that begin with the instruction to try."""
    kind = number % 10
    if kind == 9:
        return source.randbytes(15)
    if kind >= 7:
        return _special(source, bits)
    # The seven kinds before are one sequence.
    turn = number // 10 * 7 + kind
    return _tail(_head(turn * _STRIDE % HEADS, source, bits), source)


def _special(source: random.Random, bits: int) -> bytes:
    extra, special = (_EXTRA, _SPECIAL) if bits == 64 else (_EXTRA_32, _SPECIAL_32)
    prefixes = bytes(source.choices(extra, k=source.choice((0, 0, 1, 1, 2, 3))))
    return _tail(prefixes + source.choice(special), source)


def _tail(head: bytes, source: random.Random) -> bytes:
    """ModRM of a form at random, SIB, displacement and immediate."""
    form = source.randrange(6)
    reg = source.randrange(8) << 3
    rm = source.randrange(8)
    modrm = (5, 0xC0 | rm, 0xC0 | rm, rm, 0x40 | rm, 0x80 | rm)[form] | reg
    displacement = source.choice((b"\x08\0\0\0", b"\xf8\xff\xff\xff", source.randbytes(4)))
    rest = bytes([source.getrandbits(8)]) + displacement + source.randbytes(8)
    return (head + bytes([modrm]) + rest)[:15]


def _head(number: int, source: random.Random, bits: int) -> bytes:
    opcode = bytes([number & 0xFF])
    number >>= 8
    if number < _LEGACY_HEADS >> 8:
        prefixes = _PREFIXES if bits == 64 else _PREFIXES_32
        return prefixes[number >> 2] + _ESCAPES[number & 3] + opcode
    number -= _LEGACY_HEADS >> 8
    # R, X and B are inverted: mostly set, so that the registers are the first eight.
    rxb = source.choice((0xE0, 0xE0, source.getrandbits(3) << 5))
    vvvv = source.choice((0x78, 0x78, source.getrandbits(4) << 3))
    if number < _VEX_HEADS >> 8:
        number, pp_length_wide = divmod(number, 16)
        low = vvvv | pp_length_wide & 7
        if number == 0 and not pp_length_wide & 8 and source.random() < 0.5:
            return bytes([0xC5, rxb & 0x80 | low]) + opcode
        wide = (pp_length_wide & 8) << 4
        return bytes([0xC4, rxb | _VEX_MAPS[number], wide | low]) + opcode
    number -= _VEX_HEADS >> 8
    if number < _EVEX_HEADS >> 8:
        number, pp_wide = divmod(number, 8)
        second = rxb | source.choice((0x10, 0x10, 0)) | _EVEX_MAPS[number]
        third = (pp_wide & 4) << 5 | vvvv | 4 | pp_wide & 3
        fourth = source.choice((0x08, source.getrandbits(2) << 5 | 8, source.getrandbits(8)))
        return bytes([0x62, second, third, fourth]) + opcode
    number -= _EVEX_HEADS >> 8
    number, length_wide = divmod(number, 4)
    third = (length_wide & 2) << 6 | vvvv | (length_wide & 1) << 2
    return bytes([0x8F, rxb | _XOP_MAPS[number], third]) + opcode
