"""Statuses that came while another thread was waited for."""

from __future__ import annotations

import signal

from ptrace_uprobes.engine.state import EngineState, Options
from ptrace_uprobes.linux import ptrace_calls


def _stop(event: int) -> int:
    return event << 16 | signal.SIGTRAP << 8 | 0x7F


def test_what_a_thread_had_to_say_is_past_once_an_exec_has_its_number() -> None:
    # GIVEN news of two threads
    state = EngineState(Options(), lambda text: None)
    state.put_back(7, _stop(ptrace_calls.EVENT_VFORK_DONE))
    state.put_back(8, _stop(ptrace_calls.EVENT_STOP))

    # WHEN a sister of the one execs, and so takes its number
    state.put_back(7, _stop(ptrace_calls.EVENT_EXEC))

    # THEN nothing of the old one is acted on, which would let the new program go on
    assert list(state.events) == [
        (8, _stop(ptrace_calls.EVENT_STOP)),
        (7, _stop(ptrace_calls.EVENT_EXEC)),
    ]
