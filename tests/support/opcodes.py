"""Every opcode of every map, with a few ModRM forms, prefixes and vector lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["MODRM_FORMS", "PREFIXES", "every_opcode"]

MODRM_FORMS = (0x05, 0x00, 0x44, 0x84, 0xC0, 0xD1, 0xE8, 0xF9, 0x18, 0x20, 0x38)
"""RIP-relative, plain, with SIB and disp8, with SIB and disp32, registers, opcode extensions."""

PREFIXES = (b"", b"\x66", b"\xf2", b"\xf3", b"\x48", b"\x67", b"\x66\x48", b"\xf0", b"\x64\x41")

_TAIL = bytes.fromhex("24112233440102030405060708")  # SIB, displacement, immediate


def every_opcode(
    forms: Iterable[int] = MODRM_FORMS, prefixes: Iterable[bytes] = PREFIXES
) -> Iterator[bytes]:
    """Fifteen bytes each: legacy maps, then VEX, XOP and EVEX maps with each pp and W."""
    tails = [bytes([form]) + _TAIL for form in forms]
    heads = [
        prefix + escape
        for prefix in prefixes
        for escape in (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
    ]
    for opcode_map in range(12):
        for pp in range(4):
            for wide in (0x00, 0x80):
                third = wide | 0x78 | pp
                heads.append(bytes([0xC4, 0xE0 | opcode_map, third]))
                heads.append(bytes([0x8F, 0xE0 | opcode_map, third]))
                if opcode_map < 8:
                    heads.append(bytes([0x62, 0xF0 | opcode_map, third | 4, 0x48]))
    heads += [bytes([0xC5, 0xF8 | pp]) for pp in range(4)]
    for head in heads:
        for opcode in range(256):
            for tail in tails:
                yield (head + bytes([opcode]) + tail)[:15]
