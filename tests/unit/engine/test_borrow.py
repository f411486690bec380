"""A thread that is held for another reason is lent, and left as it was."""

from __future__ import annotations

import signal

import pytest

from ptrace_uprobes.engine import loop
from ptrace_uprobes.engine.loop import Tracer
from ptrace_uprobes.engine.state import EngineState, Options
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.tracee import RunState, Thread
from tests.support.fake_tracee import FakeMemory, a_record, a_thread


def _tracer() -> Tracer:
    state = EngineState(Options(), lambda text: None)
    return Tracer(state, lambda call: None, lambda: None, lambda: None)


def _in_a_handler() -> Thread:
    thread = a_thread(a_record(FakeMemory(0x1000, b"")))
    thread.state = RunState.STOPPED
    thread.busy = True
    return thread


def test_a_thread_in_a_handler_is_lent_and_stays_in_it() -> None:
    thread = _in_a_handler()
    with _tracer().borrow(thread.process.space) as lent:
        assert lent is thread
    assert thread.state is RunState.STOPPED
    assert thread.busy


def test_a_signal_that_came_while_a_thread_was_lent_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[int, ...]] = []
    monkeypatch.setattr(loop, "send_again", lambda *what: sent.append(what[:3]))
    monkeypatch.setattr(ptrace_calls, "get_signal_info", lambda tid: bytearray())
    thread = _in_a_handler()
    with _tracer().borrow(thread.process.space):
        thread.resume_signal = signal.SIGTRAP
    assert sent == [(thread.process.pid, thread.tid, signal.SIGTRAP)]
    assert thread.resume_signal == 0


def test_a_signal_that_came_while_a_running_thread_was_lent_is_delivered_as_if_in_no_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delivered: list[int] = []
    monkeypatch.setattr(loop, "deliver", lambda state, thread, number: delivered.append(number))
    tracer, thread = _tracer(), _in_a_handler()
    monkeypatch.setattr(tracer, "_stop_one", lambda space: (thread, False))
    with tracer.borrow(thread.process.space):
        thread.resume_signal = signal.SIGTRAP
    assert delivered == [signal.SIGTRAP]
    assert thread.resume_signal == 0
