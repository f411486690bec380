"""Every opcode that exists is planned faithfully, or refused by name."""

from __future__ import annotations

from collections import Counter

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86_encoding import Family, measure
from ptrace_uprobes.decoder import Instruction, decode
from ptrace_uprobes.ssol.plan import Mechanism, Plan, Refusal, SlotCode, plan, plan_without_slot
from tests.support.opcodes import every_opcode
from tests.unit.ssol.slots import read_slot

SITE = VirtAddr(0x5555_0000_1000)
NEAR_SLOT = VirtAddr(0x5555_1000_0007)

_SOME_FORMS = (0x05, 0x44, 0xC0, 0xF9)


@pytest.fixture(scope="module")
def plans() -> list[tuple[bytes, Plan]]:
    return [(code, plan(code, SITE)) for code in every_opcode(_SOME_FORMS)]


def test_every_plan_is_a_mechanism_or_a_named_refusal(plans: list[tuple[bytes, Plan]]) -> None:
    for code, made in plans:
        assert (made.mechanism is Mechanism.REFUSE) == (made.refusal is not None)
        if made.refusal is not None:
            assert made.reason is not None
            assert made.slot_size == 0
        if made.refusal in (Refusal.UNDECODABLE, Refusal.LENGTH_DISPUTED):
            assert made.reason is not None
            assert made.code.hex(" ") in made.reason
        assert code.startswith(made.code)


def test_the_two_decoders_agree_on_lengths(plans: list[tuple[bytes, Plan]]) -> None:
    disputed = {
        made.instruction.mnemonic
        for _, made in plans
        if made.instruction is not None and made.instruction.disputed
    }
    # Capstone's errors: it takes 66 48 C2 for 66 C2, whose length Intel and AMD differ on, and
    # 66 48 0F 78 for VMREAD. The branches with a 66 prefix are refused for its own sake.
    jumps = {name for name in disputed if name.startswith("j")}
    assert disputed - jumps <= {"ret", "vmread"}


def test_many_opcodes_of_each_family_are_planned(plans: list[tuple[bytes, Plan]]) -> None:
    planned: Counter[tuple[Family, int]] = Counter()
    for _, made in plans:
        if made.instruction is not None and made.mechanism is not Mechanism.REFUSE:
            encoding = made.instruction.encoding
            planned[encoding.family, encoding.opcode_map] += 1
    legacy = [planned[Family.LEGACY, number] for number in range(4)]
    vectors = [
        planned[family, number] for family in (Family.VEX, Family.EVEX) for number in (1, 2, 3)
    ]
    assert min(legacy) > 100
    assert min(vectors) > 50
    assert min(planned[Family.XOP, number] for number in (8, 9)) > 5


def test_a_fixup_stands_at_each_instruction_boundary_of_every_slot(
    plans: list[tuple[bytes, Plan]],
) -> None:
    for code, made in plans:
        if made.slot_size == 0:
            continue
        assembled = made.assemble(NEAR_SLOT)
        assert len(assembled.code) <= made.slot_size, code.hex(" ")
        boundaries = [step.offset for step in read_slot(assembled, NEAR_SLOT)]
        assert [fixup.offset for fixup in assembled.fixups] == boundaries, code.hex(" ")
        first = assembled.fixups[0]
        assert (first.offset, first.rip, first.executed) == (0, SITE, False)


def test_a_copy_differs_from_its_original_in_a_displacement_at_most(
    plans: list[tuple[bytes, Plan]],
) -> None:
    for code, made in plans:
        if made.mechanism not in (Mechanism.BOOST, Mechanism.STEP) or _is_remade(made):
            continue
        assert made.instruction is not None
        assembled = made.assemble(NEAR_SLOT)
        _assert_faithful_copy(made.instruction, assembled, code)


def _is_remade(made: Plan) -> bool:
    """Of another class than copies: tests/unit/ssol/test_x86_relocate.py has those."""
    assert made.instruction is not None
    encoding = made.instruction.encoding
    if encoding.family is not Family.LEGACY or encoding.opcode_map > 1:
        return False
    opcode = encoding.opcode
    if encoding.opcode_map == 1:
        return opcode == 0x05 or 0x80 <= opcode <= 0x8F
    return (
        0x70 <= opcode <= 0x7F
        or 0xE0 <= opcode <= 0xE3
        or opcode in (0xE8, 0xE9, 0xEB)
        or (opcode == 0x8D and encoding.is_rip_relative)
        or (opcode == 0xFF and encoding.reg == 2)
        or (opcode == 0xC7 and encoding.modrm == 0xF8)
    )


def _assert_faithful_copy(original: Instruction, assembled: SlotCode, code: bytes) -> None:
    steps = read_slot(assembled, NEAR_SLOT)
    copy = steps[0].instruction
    encoding = original.encoding
    if encoding.is_rip_relative:
        start = encoding.displacement_offset
        assert copy.code[:start] == original.code[:start]
        assert copy.code[start + 4 :] == original.code[start + 4 :]
        assert copy.memory_target == original.memory_target, code.hex(" ")
    else:
        assert copy.code == original.code
    leaves = encoding.family is Family.LEGACY and encoding.opcode_map == 0
    if leaves and (
        encoding.opcode in (0xC2, 0xC3) or (encoding.opcode == 0xFF and encoding.reg == 4)
    ):
        assert len(steps) == 1
        return
    assert [step.jump for step in steps[1:]] == [SITE + len(original.code)]


@pytest.mark.parametrize("prefer", [Mechanism.EMULATE, Mechanism.BOOST, Mechanism.STEP])
def test_a_preference_is_granted_or_its_absence_explained(
    plans: list[tuple[bytes, Plan]], prefer: Mechanism
) -> None:
    for code, made in plans[::7]:
        preferred = plan(code, SITE, prefer=prefer)
        if made.mechanism is Mechanism.REFUSE:
            assert preferred == made
        elif preferred.mechanism is not prefer:
            assert preferred.mechanism is made.mechanism
            assert preferred.reason is not None


def test_without_a_slot_a_site_is_emulated_or_refused(plans: list[tuple[bytes, Plan]]) -> None:
    for code, made in plans[::11]:
        alone = plan_without_slot(code, SITE)
        assert alone.slot_size == 0
        if alone.mechanism is not Mechanism.EMULATE:
            assert alone.mechanism is Mechanism.REFUSE
            assert alone.refusal is (made.refusal or Refusal.NO_SLOT)


def test_no_prefix_of_an_instruction_is_taken_for_an_instruction() -> None:
    for code in every_opcode((0x05, 0x84), (b"", b"\x66")):
        encoding = measure(code)
        if encoding is None:
            continue
        for size in range(encoding.size):
            assert decode(code[:size], SITE) is None
