"""What is put into a slot, byte for byte, and what each point in it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.errors import OutOfReach
from ptrace_uprobes.ssol.plan import Fixup, Mechanism, Plan, plan, plan_far
from tests.unit.ssol.slots import read_slot

SITE = VirtAddr(0x40_0000)
SLOT = VirtAddr(0x50_0000)
FAR_SLOT = VirtAddr(0x7000_0000_0000)


def made(code: str, site: int = SITE) -> Plan:
    return plan(bytes.fromhex(code), VirtAddr(site))


def test_a_plain_instruction_is_copied_and_followed_by_a_jump_back() -> None:
    slot = made("4889e5").assemble(SLOT)  # mov %rsp, %rbp
    # mov %rsp, %rbp; jmp 0x400003
    assert slot.code == bytes.fromhex("4889e5 e9fbffefff")
    assert slot.fixups == (Fixup(0, SITE, False), Fixup(3, VirtAddr(SITE + 3), True))


def test_the_jump_back_needs_no_register_where_it_is_far() -> None:
    slot = made("4889e5").assemble(FAR_SLOT)
    # mov %rsp, %rbp; jmp *1f(%rip); .balign 8; 1: .quad 0x400003
    assert slot.code == bytes.fromhex("4889e5 ff2507000000 00000000000000 0300400000000000")


def test_the_jump_back_needs_no_more_alignment_than_a_program_with_ac_set_has() -> None:
    for offset in range(16):
        slot = made("4889e5").assemble(VirtAddr(FAR_SLOT + offset))
        assert (FAR_SLOT + offset + len(slot.code)) % 8 == 0
        assert len(slot.code) <= made("4889e5").slot_size


def test_a_near_call_pushes_the_original_return_address() -> None:
    slot = made("e800010000", 0x20_8000_0000).assemble(VirtAddr(0x20_8010_0000))
    # push $-0x7ffffffb; movl $0x20, 4(%rsp); jmp 0x2080000105
    assert slot.code == bytes.fromhex("6805000080 c744240420000000 e9f300f0ff")
    assert [(each.executed, each.sp_delta) for each in slot.fixups] == [
        (False, 0),
        (False, 8),
        (True, 0),
    ]
    assert slot.fixups[2].rip == 0x20_8000_0105


def test_the_upper_half_is_not_written_where_sign_extension_gives_it() -> None:
    assert made("e800010000").assemble(SLOT).code == bytes.fromhex("6805004000 e9fb00f0ff")


def test_an_indirect_call_becomes_a_push_and_a_jump_that_can_be_rolled_back() -> None:
    slot = made("41ffd3").assemble(SLOT)  # call *%r11
    # push $0x400003; jmp *%r11
    assert slot.code == bytes.fromhex("6803004000 41ffe3")
    assert slot.fixups == (Fixup(0, SITE, False), Fixup(5, SITE, False, sp_delta=8))


@pytest.mark.parametrize(
    ("code", "copy"),
    [
        ("ff1424", "6803004000 ffa42408000000"),  # call *(%rsp) -> jmp *8(%rsp)
        ("ff542408", "6804004000 ffa42410000000"),  # call *8(%rsp)
        ("ff94247f000000", "6807004000 ffa42487000000"),
        ("41ff1424", "6804004000 41ff2424"),  # call *(%r12): another register
    ],
)
def test_a_call_through_the_stack_looks_past_the_push(code: str, copy: str) -> None:
    assert made(code).assemble(SLOT).code == bytes.fromhex(copy)


def test_a_conditional_jump_goes_straight_to_its_target() -> None:
    slot = made("7410").assemble(SLOT)
    # je 0x400012; jmp 0x400002
    assert slot.code == bytes.fromhex("0f840c00f0ff e9f7ffefff")


def test_a_loop_keeps_its_width_and_has_two_exits() -> None:
    slot = made("67e20d").assemble(SLOT)  # loop by ECX to 0x400010
    # addr32 loop 1f; jmp 0x400003; 1: jmp 0x400010
    assert slot.code == bytes.fromhex("67e205 e9fbffefff e90300f0ff")
    assert [fixup.rip for fixup in slot.fixups] == [SITE, SITE + 3, SITE + 0x10]


def test_lea_is_a_constant_at_every_width() -> None:
    for code, constant in (
        ("488d0510000000", "48b81700400000000000"),  # movabs $0x400017, %rax
        ("448d0d10000000", "41b917004000"),  # mov $0x400017, %r9d
        ("668d0d10000000", "6640b91700"),  # mov $0x17, %cx
    ):
        assert made(code).assemble(SLOT).code.startswith(bytes.fromhex(constant))


def test_a_system_call_is_followed_by_the_rcx_that_it_would_leave() -> None:
    slot = made("0f05").assemble(SLOT)
    # syscall; movabs $0x400002, %rcx; jmp 0x400002
    assert slot.code == bytes.fromhex("0f05 48b90200400000000000 e9f1ffefff")
    assert slot.fixups[1].registers == (("rcx", SITE + 2),)


def test_a_transaction_aborts_to_the_original_address() -> None:
    # xbegin 0x400106
    assert made("c7f800010000").assemble(SLOT).code.startswith(bytes.fromhex("c7f80001f0ff"))


def test_an_operand_out_of_reach_is_not_mended() -> None:
    with pytest.raises(OutOfReach):
        made("488b0510000000").assemble(FAR_SLOT)


@pytest.mark.parametrize(
    ("code", "copy", "register"),
    [
        ("488b0510000000", "488b8610000000", "rsi"),  # mov 0x10(%rip), %rax
        ("488b3510000000", "488bb710000000", "rdi"),  # mov 0x10(%rip), %rsi
        ("498b0510000000", "488b8610000000", "rsi"),  # REX.B is void, and becomes a base
        ("c5f8580d10000000", "c5f8588e10000000", "rsi"),  # vaddps
        ("c4e248f20d10000000", "c4e248f28f10000000", "rdi"),  # andn 0x10(%rip), %esi, %ecx
        ("c4e248f23d10000000", "c4e248f2bb10000000", "rbx"),  # andn 0x10(%rip), %esi, %edi
        ("62f17c48580d10000000", "62f17c48588e10000000", "rsi"),
    ],
)
def test_an_operand_out_of_reach_is_stepped_with_a_register_for_rip(
    code: str, copy: str, register: str
) -> None:
    far = plan_far(made(code))
    assert far.mechanism is Mechanism.STEP
    assert far.scratch == (register, SITE + len(bytes.fromhex(code)))
    assert far.assemble(FAR_SLOT).code.startswith(bytes.fromhex(copy))


def test_a_call_or_jump_through_a_far_operand_is_emulated() -> None:
    for code in ("ff1510000000", "ff2510000000"):
        assert plan_far(made(code)).mechanism is Mechanism.EMULATE


_RIP_RELATIVE = st.sampled_from(
    [
        "8b05",  # mov d(%rip), %eax
        "48c705",  # movq $i, d(%rip)
        "0f1005",  # movups
        "660f3a0f05",  # palignr with its immediate
        "0f0f05",  # 3DNow!, its opcode behind the displacement
        "c5f85805",
        "c4e37bf005",  # rorx
        "62f17c485805",
        "8fe97801 0d".replace(" ", ""),  # XOP
    ]
)


@given(
    head=_RIP_RELATIVE,
    narrow=st.booleans(),
    displacement=st.integers(-(1 << 31), (1 << 31) - 1),
    site=st.integers(1 << 33, 1 << 46),
    distance=st.integers(-(1 << 31), 1 << 31),
)
def test_a_mended_operand_keeps_its_absolute_address(
    head: str, narrow: bool, displacement: int, site: int, distance: int
) -> None:
    prefix = b"\x67" if narrow else b""
    tail = displacement.to_bytes(4, "little", signed=True) + b"\x9e\x00\x00\x00"
    original = plan(prefix + bytes.fromhex(head) + tail, VirtAddr(site))
    slot = VirtAddr(site + distance)
    if original.instruction is None or original.mechanism is Mechanism.REFUSE:
        return
    try:
        assembled = original.assemble(slot)
    except OutOfReach:
        assert not narrow
        assert abs(displacement - distance) >= (1 << 31) - 1
        return
    copy = read_slot(assembled, slot)[0].instruction
    assert copy.memory_target == original.instruction.memory_target
    assert copy.mnemonic == original.instruction.mnemonic
    # What the disassembler says, too: its text has the displacement.
    if not narrow and "rip" in copy.operands:
        said = copy.operands.partition("rip")[2].partition("]")[0].replace(" ", "") or "0"
        assert copy.next_address + int(said, 0) == original.instruction.memory_target
