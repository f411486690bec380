"""How two looks at a thread are compared, and which signals its own instruction caused."""

from __future__ import annotations

import ctypes
import signal
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import I386
from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.engine.signals import (
    ASYNCHRONOUS_SIGNALS,
    apply_fixup,
    fingerprint,
    is_fault,
    note_reentry,
)
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS, UserRegs
from ptrace_uprobes.ssol.plan import Fixup, plan
from tests.support.fake_tracee import PAGE, FakeMemory, a_record, a_thread

RF, TF = 1 << 16, 1 << 8
NOT_COMPARED = {"orig_rax", "rip", "ss", "ds", "es", "fs", "gs"}
COMPARED = sorted(USER_OFFSETS.keys() - NOT_COMPARED - {"eflags", "cs"})
OF_I386 = sorted({kernel for _, kernel in I386.registers} - {"rip", "eflags"})

values = st.integers(0, (1 << 64) - 1)
everything = st.fixed_dictionaries(dict.fromkeys(USER_OFFSETS, values) | {"cs": st.just(0x33)})
narrow = st.fixed_dictionaries(dict.fromkeys(USER_OFFSETS, values) | {"cs": st.just(0x23)})


def _registers(contents: dict[str, int]) -> UserRegs:
    registers = UserRegs()
    for name, value in contents.items():
        setattr(registers, name, value)
    return registers


@given(everything, st.sampled_from(COMPARED), st.integers(0, 63))
def test_any_bit_of_a_general_register_tells_two_executions_apart(
    contents: dict[str, int], name: str, bit: int
) -> None:
    other = contents | {name: contents[name] ^ 1 << bit}
    assert fingerprint(_registers(contents)) != fingerprint(_registers(other))


@given(narrow, st.sampled_from(OF_I386), st.integers(0, 63))
def test_of_a_32_bit_program_the_lower_halves_of_its_own_registers_tell(
    contents: dict[str, int], name: str, bit: int
) -> None:
    other = contents | {name: contents[name] ^ 1 << bit}
    same = fingerprint(_registers(contents)) == fingerprint(_registers(other))
    assert same == (bit >= 32)


@given(narrow, st.sampled_from([*(f"r{n}" for n in range(8, 16)), "gs_base", "rip"]), values)
def test_of_a_32_bit_program_nothing_else_tells(
    contents: dict[str, int], name: str, value: int
) -> None:
    other = contents | {name: value}
    assert fingerprint(_registers(contents)) == fingerprint(_registers(other))


@given(everything, st.sampled_from(sorted(NOT_COMPARED)), values)
def test_what_a_signals_return_does_not_put_back_as_it_was_tells_nothing(
    contents: dict[str, int], name: str, value: int
) -> None:
    other = contents | {name: value}
    assert fingerprint(_registers(contents)) == fingerprint(_registers(other))


@given(everything, st.integers(0, 63))
def test_of_the_flags_all_but_two_tell(contents: dict[str, int], bit: int) -> None:
    # RF and TF come and go with traps and steps (Intel SDM volume 3, 18.3.1.1).
    other = contents | {"eflags": contents["eflags"] ^ 1 << bit}
    same = fingerprint(_registers(contents)) == fingerprint(_registers(other))
    assert same == (1 << bit in (RF, TF))


@pytest.mark.parametrize(
    ("number", "code", "expected"),
    [
        (signal.SIGSEGV, 1, True),  # SEGV_MAPERR
        (signal.SIGSEGV, 0x80, True),  # SI_KERNEL: a general protection fault
        (signal.SIGFPE, 1, True),  # FPE_INTDIV
        (signal.SIGTRAP, 0x80, True),  # int3
        (signal.SIGSYS, 1, True),  # SYS_SECCOMP
        (signal.SIGSEGV, 0, False),  # SI_USER: kill(2)
        (signal.SIGSEGV, -6, False),  # SI_TKILL
        (signal.SIGTRAP, -1, False),  # SI_QUEUE
        (signal.SIGALRM, 0x80, False),  # SI_KERNEL: a timer
        (signal.SIGUSR1, 0, False),
        (signal.SIGCHLD, 1, False),  # CLD_EXITED
    ],
)
def test_a_fault_is_of_the_threads_own_making(number: int, code: int, expected: bool) -> None:
    info = bytearray(struct.pack("<iii", number, 0, code).ljust(128, b"\0"))
    assert is_fault(number, info) is expected


@pytest.mark.parametrize("number", range(1, 65))
def test_a_signal_may_be_blocked_for_a_moment_unless_an_instruction_can_cause_it(
    number: int,
) -> None:
    info = bytearray(struct.pack("<iii", number, 0, 1).ljust(128, b"\0"))
    assert bool(ASYNCHRONOUS_SIGNALS >> (number - 1) & 1) is not is_fault(number, info)


SITE = VirtAddr(0x40_1000)


def _placed() -> PlacedSite:
    return PlacedSite(SITE, plan(b"\x48\x89\xe5", SITE))  # mov rbp, rsp


def test_interrupted_executions_are_remembered_in_order_and_the_oldest_is_let_go() -> None:
    # GIVEN a thread whose signal handlers nest without end
    thread = a_thread(a_record(FakeMemory(0x1000, bytes(PAGE))))
    placed = _placed()
    for number in range(100):
        note_reentry(thread, placed, _registers({"rsp": 0x7000 - number}))

    # THEN what is remembered stays bounded, the innermost last
    depths = [reentry.rsp for reentry in thread.reentries]
    assert depths[-1] == 0x7000 - 99
    assert depths == sorted(depths, reverse=True)
    assert len(depths) == 64
    assert thread.reentries[-1].placed is placed
    assert thread.reentries[-1].registers == fingerprint(_registers({"rsp": 0x7000 - 99}))


@given(values, st.sampled_from([0, 8]))
def test_a_place_in_a_slot_becomes_the_programs(rsp: int, sp_delta: int) -> None:
    # GIVEN a thread in a slot
    thread = a_thread(a_record(FakeMemory(0x1000, bytes(PAGE))))
    registers = _registers({"rsp": rsp, "rip": 0x9999, "rcx": 1, "rdx": 2})
    written: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ptrace_calls,
            "set_registers",
            lambda _, regs: written.append(
                ctypes.string_at(ctypes.addressof(regs), ctypes.sizeof(regs))
            ),
        )

        # WHEN it is put where that place stands for
        apply_fixup(thread, registers, Fixup(5, SITE, False, sp_delta, (("rcx", 77),)))

    # THEN RIP, RSP and what the rest of the slot would set are the program's, and written
    assert registers.rip == SITE
    assert registers.rsp == (rsp + sp_delta) % (1 << 64)
    assert (registers.rcx, registers.rdx) == (77, 2)
    assert written == [ctypes.string_at(ctypes.addressof(registers), ctypes.sizeof(registers))]
