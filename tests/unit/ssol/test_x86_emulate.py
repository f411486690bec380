"""The tracer's own execution of an instruction, at its edges.

tests/integration/test_planner_against_native.py compares it with the processor's.
"""

from __future__ import annotations

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.ssol.plan import Mechanism, plan
from tests.support.native import BASES, DATA, STACK, Machine

BASE = BASES[2]
SITE = BASE + 0x100


def machine() -> Machine:
    return Machine(base=BASE, rip=SITE, rsp=BASE + STACK + 2048)


def emulate(code: str, at: Machine) -> Machine:
    made = plan(bytes.fromhex(code), VirtAddr(SITE), prefer=Mechanism.EMULATE)
    assert made.mechanism is Mechanism.EMULATE
    made.emulate(at, at)
    return at


def test_a_call_through_the_word_that_it_pushes_reads_it_first() -> None:
    before = machine()
    before.write(before.rsp - 8, (0x1234).to_bytes(8, "little"))
    after = emulate("ff5424f8", before)  # call *-8(%rsp)
    assert after.rip == 0x1234
    assert after.read(after.rsp, 8) == (SITE + 4).to_bytes(8, "little")


def test_push_rsp_pushes_the_old_value_and_pop_rsp_takes_the_new() -> None:
    at = machine()
    old = at.rsp
    assert emulate("54", at).read(old - 8, 8) == old.to_bytes(8, "little")
    at.write(at.rsp, (0x5678).to_bytes(8, "little"))
    assert emulate("5c", at).rsp == 0x5678


def test_a_pushed_immediate_is_sign_extended_and_a_return_releases_unsigned() -> None:
    at = machine()
    assert emulate("6aff", at).read(at.rsp, 8) == b"\xff" * 8
    at.write(at.rsp, (0x40_0000).to_bytes(8, "little"))
    stack = at.rsp
    assert emulate("c2ffff", at).rsp == stack + 8 + 0xFFFF


@pytest.mark.parametrize("code", ["e800000000", "ffd0", "ff10", "55", "6a00", "58", "c3", "c9"])
def test_after_a_memory_fault_nothing_has_changed(code: str) -> None:
    at = machine()
    at.rsp = at.rbp = 0x1000
    at.rax = BASE + DATA
    before = at.copy()
    with pytest.raises(MemoryFault):
        emulate(code, at)
    assert at == before


@pytest.mark.parametrize("target", [1 << 47, 1 << 63, (1 << 64) - (1 << 48)])
def test_a_target_that_is_no_address_is_left_to_the_processor(target: int) -> None:
    at = machine()
    at.rax = target
    before = at.copy()
    for code in ("ffe0", "ffd0"):
        with pytest.raises(MemoryFault):
            emulate(code, at)
        assert at == before


@pytest.mark.parametrize("code", ["4889c8", "31c0", "90", "750a", "e30a", "c9", "488d4008"])
def test_sites_with_the_same_bytes_share_an_emulator(code: str) -> None:
    content = bytes.fromhex(code)
    one, other = (
        plan(content, VirtAddr(address), prefer=Mechanism.EMULATE) for address in (SITE, SITE + 99)
    )
    assert one._emulator is other._emulator


@pytest.mark.parametrize("code", ["8b00", "0000", "f2e100", "6655", "f090"])
def test_what_could_differ_from_the_processor_is_not_emulated(code: str) -> None:
    made = plan(bytes.fromhex(code), VirtAddr(SITE), prefer=Mechanism.EMULATE)
    assert made.mechanism is not Mechanism.EMULATE
