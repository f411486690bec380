"""Every opcode of 32-bit mode, and which of them can be compared with the processor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ptrace_uprobes.arch.x86_encoding import Encoding, Family

__all__ = ["every_legacy_opcode_32", "is_left_out_32", "some_vector_opcodes_32"]

_TAIL = bytes.fromhex("24112233440102030405060708")  # SIB, displacement, immediate
_GROUPS = (0x80, 0x82, 0x83, 0xC0, 0xC6, 0xD2, *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF)
"""One-byte opcodes of which ModRM.reg makes different instructions."""


def every_legacy_opcode_32(forms: Iterable[int], prefixes: Iterable[bytes]) -> Iterator[bytes]:
    """Fifteen bytes each: the one-byte, 0F, 0F 38 and 0F 3A maps, then the groups."""
    tails = [bytes([form]) + _TAIL for form in forms]
    for prefix in prefixes:
        for escape in (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a"):
            for opcode in range(256):
                for tail in tails:
                    yield (prefix + escape + bytes([opcode]) + tail)[:15]
        for opcode in _GROUPS:
            for form in range(0, 0x40, 8):
                yield (prefix + bytes([opcode, form]) + _TAIL)[:15]
                yield (prefix + bytes([opcode, form | 0xC2]) + _TAIL)[:15]


def some_vector_opcodes_32(forms: Iterable[int]) -> Iterator[bytes]:
    """VEX and EVEX opcodes of the maps that are most used."""
    for form in forms:
        for opcode in range(256):
            for head in ("c5f8", "c5fd", "c4e279", "c4e37d", "62f17c48", "62f2fd28"):
                yield (bytes.fromhex(head) + bytes([opcode, form]) + _TAIL)[:15]


def is_left_out_32(encoding: Encoding) -> bool:
    """Not the same twice, or not to be tried in a process that is to live on."""
    if encoding.family is not Family.LEGACY:
        return False
    opcode = encoding.opcode
    if encoding.opcode_map == 0:
        # FS is the C library's; popf (TF, AC), and system calls at random.
        return opcode in (0x9D, 0xCD) or (opcode == 0x8E and encoding.reg == 4)
    return encoding.opcode_map == 1 and (
        # Fast system calls return to the vDSO of a 32-bit process, which this one is not;
        # rdtsc, cpuid, pop fs, lfs; lar, lsl: one segment's limit is the processor's number.
        opcode in (0x05, 0x34, 0x31, 0x33, 0xA1, 0xA2, 0xB4, 0x02, 0x03)
        or (opcode == 0x00 and encoding.reg < 2)  # sldt, str
        or opcode == 0x01  # rdtscp, wrpkru, sgdt and the like
        or (opcode == 0xC7 and encoding.mode == 3)  # rdrand, rdpid
        or (opcode == 0xAE and encoding.mode == 3)  # fences
    )
