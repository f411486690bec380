"""Which mechanism each class of instructions gets, and what is refused under which name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.errors import EngineBug
from ptrace_uprobes.ssol.plan import Mechanism, Plan, Refusal, plan, plan_far, plan_without_slot

SITE = VirtAddr(0x40_0000)
BOOST, STEP, EMULATE = Mechanism.BOOST, Mechanism.STEP, Mechanism.EMULATE


def made(code: str, prefer: Mechanism | None = None) -> Plan:
    return plan(bytes.fromhex(code), SITE, prefer=prefer)


@pytest.mark.parametrize(
    ("code", "mechanism"),
    [
        ("f30f1efa", BOOST),  # endbr64
        ("55", BOOST),  # push %rbp
        ("4883ec18", BOOST),  # sub $0x18, %rsp
        ("488b0510000000", BOOST),  # mov 0x10(%rip), %rax
        ("e800000000", BOOST),  # call
        ("ffd0", BOOST),  # call *%rax
        ("ff1510000000", BOOST),  # call *0x10(%rip)
        ("ff1424", BOOST),  # call *(%rsp)
        ("ff5424f8", EMULATE),  # call *-8(%rsp): the word that its own push writes
        ("ff10", EMULATE),  # call *(%rax): perhaps that word
        ("ffd4", EMULATE),  # call *%rsp
        ("c3", BOOST),  # ret
        ("9c", BOOST),  # pushf
        ("0f05", BOOST),  # syscall
        ("8ed0", BOOST),  # mov %ax, %ss
        ("f3a4", BOOST),  # rep movsb
        ("d9c0", STEP),  # fld %st(0)
        ("d93c24", BOOST),  # fnstcw (%rsp): a control instruction
        ("dfe0", BOOST),  # fnstsw %ax
        ("9b", BOOST),  # fwait
        ("0fae0424", BOOST),  # fxsave (%rsp): stores the address of an earlier instruction
        ("f4", BOOST),  # hlt: faults in the slot
        ("0f0b", BOOST),  # ud2
        ("6648e800000000", BOOST),  # data16 rex.W call: the idiom of general-dynamic TLS
    ],
)
def test_auto_takes_the_cheapest_faithful_mechanism(code: str, mechanism: Mechanism) -> None:
    assert made(code).mechanism is mechanism


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        ("cc", Refusal.BREAKPOINT),
        ("f1", Refusal.BREAKPOINT),
        ("cd03", Refusal.BREAKPOINT),
        ("cb", Refusal.FAR_TRANSFER),
        ("48cf", Refusal.FAR_TRANSFER),  # iretq
        ("ff28", Refusal.FAR_TRANSFER),  # ljmp *(%rax)
        ("0f34", Refusal.SYSENTER),
        ("66c3", Refusal.OPERAND_SIZE_BRANCH),
        ("66e800000000", Refusal.OPERAND_SIZE_BRANCH),
        ("667400", Refusal.OPERAND_SIZE_BRANCH),
        ("0f01d7", Refusal.ENCLAVE),
        ("06", Refusal.UNDECODABLE),
        ("", Refusal.UNDECODABLE),
    ],
)
def test_what_cannot_be_faithful_is_refused_by_name(code: str, refusal: Refusal) -> None:
    refused = made(code)
    assert refused.refusal is refusal
    assert refused.reason is not None
    assert refusal.value in refused.reason


def test_bytes_that_are_no_instruction_are_named() -> None:
    refused = made("0606")
    assert refused.reason is not None
    assert "06 06" in refused.reason


def test_another_architecture_is_refused() -> None:
    arm = replace(X86_64, elf_machine=183)
    assert plan(b"\x90", SITE, arm).refusal is Refusal.ARCHITECTURE
    assert plan_without_slot(b"\x90", SITE, arm).refusal is Refusal.ARCHITECTURE


@pytest.mark.parametrize(
    "code", ["9c", "9d", "0f05", "cd80", "8ed0", "c7f800000000", "e800000000", "c3", "7400"]
)
def test_what_a_step_would_disturb_is_never_stepped(code: str) -> None:
    preferred = made(code, STEP)
    assert preferred.mechanism is BOOST
    assert preferred.reason is not None


def test_an_x87_instruction_has_its_address_set_right() -> None:
    assert made("d9c0").fix_fip
    assert not made("d93c24").fix_fip
    boosted = made("d9c0", BOOST)
    assert boosted.mechanism is STEP
    assert boosted.reason is not None


def test_a_far_x87_copy_is_recorded_with_the_opcode_of_the_original() -> None:
    far = plan_far(made("df1508000000"))  # fist 8(%rip): its copy has RSI, another ModRM byte
    assert far.mechanism is STEP
    assert far.fop == 0x715


def test_an_emulated_plan_keeps_a_slot_for_the_programs_own_faults() -> None:
    emulated = made("ff10", EMULATE)
    assert emulated.mechanism is EMULATE
    assert 0 < len(emulated.assemble(VirtAddr(0x50_0000)).code) <= emulated.slot_size


def test_without_a_slot_what_the_tracer_can_compute_is_emulated() -> None:
    assert plan_without_slot(b"\x55", SITE).mechanism is EMULATE
    assert plan_without_slot(b"\x0f\xa2", SITE).refusal is Refusal.NO_SLOT


def test_a_plan_is_not_asked_for_what_it_has_not() -> None:
    with pytest.raises(EngineBug):
        made("cc").assemble(SITE)


@given(st.binary(max_size=20), st.integers(0, (1 << 64) - 1))
def test_no_bytes_at_no_address_raise(code: bytes, address: int) -> None:
    for prefer in (None, *Mechanism):
        planned = plan(code, VirtAddr(address), prefer=prefer)
        assert planned.address == address
    plan_without_slot(code, VirtAddr(address))
