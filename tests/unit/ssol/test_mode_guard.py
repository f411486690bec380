"""The guard's bytes are one thing to 64-bit code and another to 32-bit code: capstone decides."""

from __future__ import annotations

import capstone
import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import I386, X86_64
from ptrace_uprobes.ssol.mode_guard import assemble_guarded, guard_size
from ptrace_uprobes.ssol.plan import Mechanism, plan

LOW, SLOT, HIGH = VirtAddr(0x40_1000), VirtAddr(0x5000_0000), VirtAddr(0x7F00_0000_1000)
MOV = bytes.fromhex("89c3")  # mov %eax, %ebx in both modes
_MODES = {X86_64.name: capstone.CS_MODE_64, I386.name: capstone.CS_MODE_32}


def _path(code: bytes, mode: Architecture) -> list[tuple[int, str]]:
    """The instructions that run from the slot's start, up to one that is no nop and no jump."""
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, _MODES[mode.name])
    at, found = 0, []
    while True:
        address, size, mnemonic, operands = next(disassembler.disasm_lite(code[at:], SLOT + at, 1))
        found.append((address - SLOT, mnemonic))
        if mnemonic == "nop":
            at += size
        elif mnemonic == "jmp":
            at = int(operands, 16) - SLOT
        else:
            return found


@pytest.mark.parametrize("architecture", [X86_64, I386], ids=lambda a: a.name)
def test_code_of_the_mode_goes_on_to_the_instruction_and_the_others_to_the_trap(
    architecture: Architecture,
) -> None:
    # GIVEN a slot for a site that code of both modes can reach
    made = plan(MOV, LOW, architecture)
    assert made.mechanism is Mechanism.BOOST
    guarded = assemble_guarded(made, SLOT, architecture)
    other = I386 if architecture is X86_64 else X86_64
    assert guarded.other_mode_offset is not None

    # THEN each finds its own way, touching nothing
    own_way, other_way = _path(guarded.code, architecture), _path(guarded.code, other)
    assert own_way[-1][1] == "mov"
    assert {name for _, name in own_way[:-1]} <= {"nop", "jmp"}
    assert other_way[-1] == (guarded.other_mode_offset - 1, "int3")
    assert {name for _, name in other_way[:-1]} <= {"nop", "jmp"}

    # AND whoever is stopped on the way has not executed the instruction yet
    known = {fixup.offset: fixup for fixup in guarded.fixups}
    for offset, _ in own_way + other_way:
        assert known[offset].rip == LOW
        assert not known[offset].executed
    assert not known[guarded.other_mode_offset].executed
    assert len(guarded.code) <= made.slot_size + guard_size(made)


def test_behind_the_guard_everything_is_as_without_it() -> None:
    made = plan(MOV, LOW)
    guarded = assemble_guarded(made, SLOT, X86_64)
    start = next(offset for offset, name in _path(guarded.code, X86_64) if name == "mov")
    plain = made.assemble(VirtAddr(SLOT + start))
    assert guarded.code[start : start + len(plain.code)] == plain.code
    shifted = {(f.offset + start, f.rip, f.executed) for f in plain.fixups}
    assert shifted <= {(f.offset, f.rip, f.executed) for f in guarded.fixups}


def test_what_32_bit_code_cannot_reach_has_no_guard() -> None:
    made = plan(MOV, HIGH)
    slot = VirtAddr(HIGH + 0x10000)
    assert assemble_guarded(made, slot, X86_64) == made.assemble(slot)
    assert guard_size(made) == 0


def test_what_the_tracer_executes_itself_has_no_guard() -> None:
    made = plan(MOV, LOW, prefer=Mechanism.STEP)
    assert assemble_guarded(made, SLOT, X86_64) == made.assemble(SLOT)
