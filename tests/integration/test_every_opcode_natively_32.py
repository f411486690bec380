"""Every opcode of 32-bit mode leaves the same state in place, and through each of its plans."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import I386
from ptrace_uprobes.arch.x86_encoding import Encoding, Family
from ptrace_uprobes.decoder import decode
from tests.support.native import BASES, DATA, SLOT, NativeRunner, runner_for
from tests.support.native_check import check, machine_at
from tests.support.opcodes import every_opcode

_SITE_OFFSET = 0x140
_FORMS = (0x05, 0x00, 0x44, 0xD1)
_GROUPS = {0: (0x80, 0x82, 0x83, 0xC0, 0xC6, 0xD2, 0xD9, 0xDB, 0xDD, 0xDF, 0xF6, 0xF7, 0xFE, 0xFF)}
"""One-byte opcodes of which ModRM.reg makes different instructions; 0F 71 and the like differ
little, and all of them are copied."""


@pytest.fixture(scope="module")
def native() -> Iterator[NativeRunner]:
    with runner_for(I386) as runner:
        yield runner


def _is_left_out(encoding: Encoding) -> bool:
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


def _windows(prefixes: tuple[bytes, ...]) -> Iterator[bytes]:
    yield from every_opcode(_FORMS, prefixes)
    for prefix in prefixes:
        for opcode in _GROUPS[0]:
            for form in (0x00, 0xC2):
                for reg in range(8):
                    yield (prefix + bytes([opcode, form | reg << 3]) + bytes(range(1, 14)))[:15]


@pytest.mark.parametrize(
    "prefixes", [(b"",), (b"\x66",), (b"\x67", b"\x2e"), (b"\xf2", b"\xf3")], ids=repr
)
def test_every_opcode_leaves_the_same_state(
    native: NativeRunner, prefixes: tuple[bytes, ...]
) -> None:
    machine = machine_at(7, BASES[0], _SITE_OFFSET, I386)
    machine.rax = machine.base + DATA + 512  # (%eax) is in the data
    seen: set[bytes] = set()
    for window in _windows(prefixes):
        instruction = decode(window, VirtAddr(machine.rip), I386)
        if instruction is None or instruction.code in seen:
            continue
        seen.add(instruction.code)
        encoding = instruction.encoding
        if _is_left_out(encoding):
            continue
        code = instruction.code
        if encoding.has_memory_operand and encoding.modrm & 0xC7 == 0x05:
            # An absolute operand, in the data.
            start = encoding.displacement_offset
            if encoding.displacement_size == 4:
                target = machine.base + DATA + 1024
                code = code[:start] + target.to_bytes(4, "little") + code[start + 4 :]
        check(native, machine, code, SLOT + 0x40)
    assert len(seen) > 500
