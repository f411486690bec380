"""Who goes on after all have stood still."""

from __future__ import annotations

import pytest

from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.engine import standstill as module
from ptrace_uprobes.engine.standstill import standstill
from ptrace_uprobes.engine.state import EngineState, Options
from ptrace_uprobes.tracee import AddressSpace, RunState, Thread
from tests.support.fake_tracee import FakeMemory, a_record, a_thread


@pytest.mark.parametrize("execs", [False, True])
def test_a_thread_that_stood_before_goes_on_only_if_it_has_come_by_another_program(
    execs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a thread that stands in a hit
    gone_on: list[Thread] = []
    monkeypatch.setattr(module, "go_on", gone_on.append)
    state = EngineState(Options(), lambda text: None)
    thread = a_thread(a_record(FakeMemory(0x1000, b"")))
    thread.state = RunState.STOPPED
    state.threads[thread.tid] = thread
    # WHEN all stand still, and one of its sisters execs: the new program has its number
    with standstill(state, lambda tid, status: None):
        if execs:
            thread.process.move_to(AddressSpace(thread.process.pid, X86_64))
    # THEN nobody else would have that go on
    assert gone_on == ([thread] if execs else [])
