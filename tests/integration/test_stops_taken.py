"""A stop that was looked at, and whose thread is killed before it is taken: no news is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.engine.state import LOOK, EngineState, Options, status_of
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import SeizeOptions
from ptrace_uprobes.tracee import AddressSpace, RunState, Thread
from tests.support.procfs import wait_until

_SEIZE = 0x4206
_LAST_STOP = ptrace_calls.EVENT_EXIT << 16 | signal.SIGTRAP << 8 | 0x7F


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            yield process
        finally:
            process.kill()
            with suppress(ptrace_calls.TraceeGone):
                ptrace_calls.call(ptrace_calls.CONT, process.pid)


def _in_a_stop(pid: int) -> tuple[EngineState, Thread, int]:
    """A traced thread that stands in a signal's stop, looked at and not taken; its status."""
    state = EngineState(Options(), lambda text: None)
    process = state.new_process(pid, AddressSpace(pid, X86_64))
    thread = state.new_thread(pid, process)
    ptrace_calls.call(_SEIZE, pid, 0, SeizeOptions.ALL)
    os.kill(pid, signal.SIGUSR1)
    seen = os.waitid(os.P_PID, pid, LOOK)  # this process has other children
    assert seen is not None
    thread.state = RunState.STOPPED
    return state, thread, status_of(seen)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)

    def in_its_last_stop() -> bool:
        seen = os.waitid(os.P_PID, pid, LOOK | os.WNOHANG)
        return seen is not None and status_of(seen) == _LAST_STOP

    wait_until("the last stop", in_its_last_stop)


def test_taking_it_tells_of_the_last_stop(sleeper: subprocess.Popen[bytes]) -> None:
    state, _, status = _in_a_stop(sleeper.pid)
    _kill(sleeper.pid)
    assert state.take(sleeper.pid, status) == (sleeper.pid, _LAST_STOP)


def test_settling_it_keeps_the_last_stop_for_later(sleeper: subprocess.Popen[bytes]) -> None:
    state, thread, status = _in_a_stop(sleeper.pid)
    _kill(sleeper.pid)
    state.untaken, state.untaken_status = thread.tid, status
    state.settle()
    assert list(state.events) == [(thread.tid, _LAST_STOP)]


def test_one_that_is_on_its_way_out_is_no_news_yet(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN that waitpid has nothing to tell: not in the old stop any more, and not in the next
    state, thread, status = _in_a_stop(sleeper.pid)
    monkeypatch.setattr(os, "waitpid", lambda tid, flags: (0, 0))
    state.untaken, state.untaken_status = thread.tid, status

    # WHEN the stop is settled
    state.settle()

    # THEN that is not taken for an exit with status 0
    assert list(state.events) == []
