"""Raw wait statuses of a SEIZEd thread mean what ptrace(2) says."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.wait_status import (
    STOPPING_SIGNALS,
    TRAP_STOP,
    StopKind,
    WaitStatus,
    decode_status,
)

signals = st.integers(1, 64)


def _stop(number: int, event: int = 0) -> int:
    return event << 16 | number << 8 | 0x7F


@given(st.integers(0, 255))
def test_an_exit_tells_its_code(code: int) -> None:
    assert decode_status(code << 8) == WaitStatus(StopKind.EXITED, code)


@given(signals, st.sampled_from([0, 0x80]))
def test_a_death_tells_its_signal_with_a_core_dump_or_without(number: int, core: int) -> None:
    assert decode_status(number | core) == WaitStatus(StopKind.KILLED, number)


@given(signals)
def test_a_signal_on_its_way_is_a_signal_delivery_stop(number: int) -> None:
    assert decode_status(_stop(number)) == WaitStatus(StopKind.SIGNAL, number)


def test_a_hit_looks_like_a_sigtrap_on_its_way() -> None:
    assert decode_status(TRAP_STOP) == WaitStatus(StopKind.SIGNAL, signal.SIGTRAP)
    assert os.WIFSTOPPED(TRAP_STOP)
    assert os.WSTOPSIG(TRAP_STOP) == signal.SIGTRAP


def test_a_syscall_stop_is_no_sigtrap() -> None:
    # PTRACE_O_TRACESYSGOOD sets bit 7.
    assert decode_status(_stop(signal.SIGTRAP | 0x80)).kind is StopKind.SYSCALL


@pytest.mark.parametrize(
    "event",
    [
        ptrace_calls.EVENT_FORK,
        ptrace_calls.EVENT_VFORK,
        ptrace_calls.EVENT_CLONE,
        ptrace_calls.EVENT_EXEC,
        ptrace_calls.EVENT_VFORK_DONE,
        ptrace_calls.EVENT_EXIT,
    ],
)
def test_an_event_tells_which(event: int) -> None:
    assert decode_status(_stop(signal.SIGTRAP, event)) == WaitStatus(StopKind.EVENT, event)


@pytest.mark.parametrize("number", sorted(STOPPING_SIGNALS))
def test_an_event_stop_with_a_stopping_signal_is_a_group_stop(number: int) -> None:
    status = _stop(number, ptrace_calls.EVENT_STOP)
    assert decode_status(status) == WaitStatus(StopKind.GROUP_STOP, number)


def test_an_event_stop_with_sigtrap_is_an_interrupt_or_a_new_thread() -> None:
    status = _stop(signal.SIGTRAP, ptrace_calls.EVENT_STOP)
    assert decode_status(status) == WaitStatus(StopKind.EVENT_STOP, signal.SIGTRAP)


@given(st.integers(0, 0xFFFFFF))
def test_every_number_that_the_kernel_could_give_has_a_meaning(status: int) -> None:
    if os.WIFCONTINUED(status) or (status & 0xFF == 0x7F and not status >> 8 & 0xFF):
        return  # a tracer does not ask for WCONTINUED; no stop is of signal 0
    decoded = decode_status(status)
    assert (decoded.kind is StopKind.EXITED) == os.WIFEXITED(status)
    assert (decoded.kind is StopKind.KILLED) == os.WIFSIGNALED(status)
