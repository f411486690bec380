"""Every opcode that this processor executes leaves the same state in place and in a slot."""

from __future__ import annotations

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86_encoding import Encoding, Family
from ptrace_uprobes.decoder import decode
from tests.support.native import BASES, DATA, SLOT, NativeRunner
from tests.support.native_check import check, machine_at
from tests.support.opcodes import every_opcode

_SITE_OFFSET = 0x140


def _is_left_out(encoding: Encoding) -> bool:
    """Not the same twice, or not to be tried in a process that is to live on."""
    if encoding.family is not Family.LEGACY:
        return False
    opcode = encoding.opcode
    is_register = encoding.mode == 3
    if encoding.opcode_map == 0:
        # Segment registers (FS is the C library's), popf (TF, AC), and system calls at random.
        return opcode in (0x8E, 0x9D, 0xCD)
    if encoding.opcode_map == 2:
        return False
    return encoding.opcode_map == 1 and (
        opcode in (0x05, 0x31, 0x33, 0xA1, 0xA2, 0xA9, 0xB2, 0xB4, 0xB5)  # rdtsc, cpuid, lfs
        or opcode in (0x02, 0x03)  # lar, lsl: one segment's limit is the processor's number
        or (opcode == 0x00 and encoding.reg < 2)  # sldt, str
        or (opcode == 0x01)  # rdtscp, wrpkru, sgdt and the like
        or (opcode == 0xC7 and is_register)  # rdrand, rdpid
        or (opcode == 0xAE and is_register)  # wrfsbase
    )


@pytest.mark.parametrize("escape", ["one byte", "0f", "0f38", "0f3a", "vex", "evex"])
def test_every_opcode_leaves_the_same_state_in_place_and_in_a_slot(escape: str) -> None:
    machine = machine_at(7, BASES[0], _SITE_OFFSET)
    # RIP-relative, (%rax) in the data, and a register.
    machine.rax = machine.base + DATA + 512
    tried = 0
    seen: set[bytes] = set()
    with NativeRunner() as native:
        for window in every_opcode((0x05, 0x00, 0xD1), (b"", b"\x66", b"\xf2", b"\xf3", b"\x48")):
            instruction = decode(window, VirtAddr(machine.rip))
            if instruction is None or _kind(instruction.encoding) != escape:
                continue
            encoding = instruction.encoding
            if _is_left_out(encoding) or instruction.code in seen:
                continue
            code = instruction.code
            if encoding.is_rip_relative:
                start = encoding.displacement_offset
                distance = machine.base + DATA + 1024 - instruction.next_address
                code = code[:start] + distance.to_bytes(4, "little") + code[start + 4 :]
            seen.add(instruction.code)
            check(native, machine, code, SLOT + 0x40)
            tried += 1
    assert tried > 50


def _kind(encoding: Encoding) -> str:
    if encoding.family is Family.LEGACY:
        return ("one byte", "0f", "0f38", "0f3a")[encoding.opcode_map]
    return str(encoding.family.value)
