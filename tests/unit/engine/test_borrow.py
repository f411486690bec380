"""A thread that is held for another reason is lent, and left as it was."""

from __future__ import annotations

import signal

import pytest

from ptrace_uprobes.engine import loop
from ptrace_uprobes.engine.loop import Tracer
from ptrace_uprobes.engine.state import EngineState, Options
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


def test_a_stop_signal_that_a_lent_thread_swallowed_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(loop, "kill_quietly", lambda *what: sent.append(what))
    thread = _in_a_handler()
    with _tracer().borrow(thread.process.space):
        thread.resume_signal = signal.SIGSTOP
    assert sent == [(thread.process.pid, signal.SIGSTOP)]
    assert thread.resume_signal == 0
