"""Plans for 32-bit code: mechanisms, refusals and the slots' bytes.

tests/integration/test_planner_against_native_32.py compares them with the processor.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import I386
from ptrace_uprobes.ssol.plan import Fixup, Mechanism, Plan, Refusal, plan, plan_without_slot
from tests.support.native import BASES, DATA, STACK, Machine

SITE = VirtAddr(0x0804_9000)
SLOT = VirtAddr(0x0905_0000)
HIGH_SLOT = VirtAddr(0xF000_0000)
BOOST, STEP, EMULATE = Mechanism.BOOST, Mechanism.STEP, Mechanism.EMULATE


def made(code: str, prefer: Mechanism | None = None) -> Plan:
    return plan(bytes.fromhex(code), SITE, I386, prefer)


@pytest.mark.parametrize(
    ("code", "mechanism"),
    [
        ("f30f1efb", BOOST),  # endbr32
        ("55", BOOST),  # push %ebp
        ("40", BOOST),  # inc %eax: no REX prefix here
        ("60", BOOST),  # pusha
        ("8b1c24", BOOST),  # mov (%esp), %ebx: __x86.get_pc_thunk.bx
        ("e800000000", BOOST),  # call 1f; 1: the older way to learn one's address
        ("ff1510000000", BOOST),  # call *0x10: an absolute operand
        ("65ff1510000000", EMULATE),  # call *%gs:0x10: how i386 libraries enter the kernel
        ("ff1424", BOOST),  # call *(%esp)
        ("ff5424fc", EMULATE),  # call *-4(%esp): the word that its own push writes
        ("ff10", EMULATE),  # call *(%eax): perhaps that word
        ("67ff17", EMULATE),  # call *(%bx)
        ("ffd4", EMULATE),  # call *%esp
        ("c20400", BOOST),  # ret $4
        ("cd80", BOOST),  # int $0x80
        ("0f34", BOOST),  # sysenter: it returns to the vDSO wherever it was
        ("0f05", BOOST),  # syscall: so does it
        ("17", BOOST),  # pop %ss
        ("ce", BOOST),  # into
        ("620b", BOOST),  # bound (%ebx), %ecx
        ("c508", BOOST),  # lds (%eax), %ecx
        ("c5f877", BOOST),  # vzeroupper
        ("63c8", BOOST),  # arpl %cx, %ax
        ("d9c0", STEP),  # fld %st(0)
        ("d93c24", BOOST),  # fnstcw (%esp)
        ("67e302", BOOST),  # jcxz
    ],
)
def test_auto_takes_the_cheapest_faithful_mechanism(code: str, mechanism: Mechanism) -> None:
    assert made(code).mechanism is mechanism


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        ("cc", Refusal.BREAKPOINT),
        ("cb", Refusal.FAR_TRANSFER),
        ("cf", Refusal.FAR_TRANSFER),  # iret
        ("9a112233442300", Refusal.FAR_TRANSFER),  # lcall $0x23, $0x44332211
        ("ea112233443300", Refusal.FAR_TRANSFER),  # ljmp $0x33: to 64-bit code
        ("ff28", Refusal.FAR_TRANSFER),  # ljmp *(%eax)
        ("66c3", Refusal.SHORT_BRANCH),
        ("66e80000", Refusal.SHORT_BRANCH),
        ("660f840000", Refusal.SHORT_BRANCH),
        ("667400", Refusal.SHORT_BRANCH),
        ("66ffe0", Refusal.SHORT_BRANCH),
        ("0f01d7", Refusal.ENCLAVE),
        ("0f04", Refusal.UNDECODABLE),
        ("62c0", Refusal.UNDECODABLE),  # an EVEX prefix that is cut short
    ],
)
def test_what_cannot_be_faithful_is_refused_by_name(code: str, refusal: Refusal) -> None:
    assert made(code).refusal is refusal
    assert plan_without_slot(bytes.fromhex(code), SITE, I386).refusal is refusal


@pytest.mark.parametrize("code", ["9c", "9d", "cd80", "0f34", "0f05", "17", "8ed0", "ce", "c3"])
def test_what_a_step_would_disturb_is_never_stepped(code: str) -> None:
    preferred = made(code, STEP)
    assert preferred.mechanism is BOOST
    assert preferred.reason is not None


@pytest.mark.parametrize(
    ("code", "slot", "copy"),
    [
        # push $0x804900a; jmp 0x804901a
        ("e815000000", SLOT, "6805900408 e91090fffe"),
        # inc %eax; jmp 0x8049001, below by more than 2 GiB: it wraps
        ("40", HIGH_SLOT, "40 e9fb8f0418"),
        # je 0x804900e; jmp 0x8049002
        ("740c", HIGH_SLOT, "0f8408900418 e9f78f0418"),
        # loop 1f; jmp 0x8049002; 1: jmp 0x8048ff2
        ("e2f0", HIGH_SLOT, "e205 e9fb8f0418 e9e68f0418"),
        # push $0x8049003; jmp *4(%esp)
        ("ff1424", SLOT, "6803900408 ffa42404000000"),
        # push $0x8049003; jmp *(%si): no SIB byte, whatever r/m says
        ("67ff14", SLOT, "6803900408 67ff24"),
        # push $0x8049007; jmp *2(%esp,1): the sum wraps at 4 GiB
        ("ff9424feffff7f", SLOT, "6807900408 ffa42402000080"),
        # push -4(%esp); lea 4(%esp), %esp; jmp 0x8049000
        ("ffd4", HIGH_SLOT, "ff7424fc 8d642404 e9f38f0418"),
        ("cd80", HIGH_SLOT, "cd80 e9fb8f0418"),
        ("0f34", SLOT, "0f34"),
        # xbegin 0x8049106; jmp 0x8049006
        ("c7f800010000", HIGH_SLOT, "c7f800910418 e9fb8f0418"),
    ],
)
def test_slots_hold_32_bit_code_that_reaches_everything(
    code: str, slot: VirtAddr, copy: str
) -> None:
    planned = made(code)
    assembled = planned.assemble(slot)
    assert assembled.code == bytes.fromhex(copy)
    assert len(assembled.code) <= planned.slot_size


def test_a_call_that_has_not_jumped_is_undone_by_the_word_that_it_pushed() -> None:
    slot = made("ffd0").assemble(SLOT)  # call *%eax
    # push $0x8049002; jmp *%eax
    assert slot.code == bytes.fromhex("6802900408 ffe0")
    assert slot.fixups == (Fixup(0, SITE, False), Fixup(5, SITE, False, sp_delta=4))


def test_a_system_call_in_a_slot_ends_behind_the_original() -> None:
    slot = made("cd80").assemble(SLOT)
    # The kernel's restart backs up by two bytes, to the slot's own int $0x80.
    assert slot.fixups == (Fixup(0, SITE, False), Fixup(2, VirtAddr(SITE + 2), True))


def test_an_emulated_push_takes_four_bytes_and_wraps_with_its_registers() -> None:
    at = Machine(arch=I386, base=BASES[0], rip=SITE, rsp=BASES[0] + STACK + 2048)
    at.rbp = 0xFFFF_FFFF_1234_5678  # what 64-bit code may have left above
    plan(b"\x55", SITE, I386, EMULATE).emulate(at, at)  # push %ebp
    assert at.rsp == BASES[0] + STACK + 2044
    assert at.read(at.rsp, 4) == (0x1234_5678).to_bytes(4, "little")
    assert at.rip == SITE + 1


def test_an_emulated_call_by_the_thread_pointer_finds_its_segment() -> None:
    at = Machine(arch=I386, base=BASES[0], rip=SITE, rsp=BASES[0] + STACK + 2048)
    at.gs_base = BASES[0] + DATA
    at.write(at.gs_base + 0x10, (0xF7FC_1234).to_bytes(4, "little"))
    made("65ff1510000000").emulate(at, at)  # call *%gs:0x10
    assert at.rip == 0xF7FC_1234
    assert at.read(at.rsp, 4) == (SITE + 7).to_bytes(4, "little")


def test_modes_do_not_share_what_is_remembered_of_the_same_bytes() -> None:
    code = b"\x48\x89\xe5"  # mov %rsp, %rbp; or dec %eax
    for _ in range(2):
        assert plan(code, SITE).code == code
        assert plan(code, SITE, I386).code == code[:1]
    push = b"\x55"
    wide, narrow = plan(push, SITE, prefer=EMULATE), plan(push, SITE, I386, EMULATE)
    assert wide._emulator is not narrow._emulator


@given(st.binary(max_size=20), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_no_bytes_at_no_address_raise_or_are_out_of_reach(
    code: bytes, address: int, slot: int
) -> None:
    for prefer in (None, *Mechanism):
        planned = plan(code, VirtAddr(address), I386, prefer)
        assert planned.address == address
        if planned.slot_size:
            assembled = planned.assemble(VirtAddr(slot))
            assert len(assembled.code) <= planned.slot_size
            assert all(fixup.rip < 1 << 32 for fixup in assembled.fixups)
    plan_without_slot(code, VirtAddr(address), I386)
