"""Attaching to a process one of whose threads execs: neither waits for the other for ever."""

from __future__ import annotations

import contextlib

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.procfs import process_state
from tests.support.target import start_target


def test_attaching_in_the_middle_of_the_execs_of_a_thread_with_sisters() -> None:
    # GIVEN a process whose threads exec the program anew, one after another, with sisters that
    # the kernel has to end first
    program = build_target("exec_chain.c")
    attached = 0
    with start_target(program, "300", wait=False) as target:
        # WHEN it is attached to again and again, as well while an exec waits for a sister that is
        # ours and we wait for that exec
        while True:
            try:
                with pu.attach(target.pid, on_warning=lambda _: None) as engine:
                    with contextlib.suppress(pu.EngineStopped):
                        engine.start()
                attached += 1
            except (pu.NoSuchProcess, pu.UnsupportedTracee):
                if process_state(target.pid) == "X":
                    break
        ended = target.finish()

    # THEN it came to its end
    assert ended.status == 21
    assert attached > 0
