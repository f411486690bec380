"""Stops and continuations reach the program, and its parent, as without us."""

from __future__ import annotations

import os
import pty
import signal

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.procfs import process_state, status_fields, thread_ids, wait_until
from tests.support.target import start_target


@pytest.mark.parametrize("probed", [False, True], ids=["unprobed", "probed"])
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN])
def test_a_stop_signal_stops_all_threads_and_sigcont_continues_them(
    number: signal.Signals, probed: bool
) -> None:
    # GIVEN a server with three threads at work
    with start_target(build_target("server.c"), "3") as target:
        engine = pu.attach(target.pid) if probed else None
        probe = engine.probe("work") if engine else None
        if engine and probe:
            engine.start()
            wait_until("it is hit", lambda: probe.hits > 100)

        for _ in range(3):
            # WHEN it is stopped
            target.signal(number)
            target.wait_event(f"stopped {number}")

            # THEN every thread stands still until SIGCONT
            wait_until(
                "all threads are stopped",
                lambda: all(process_state(tid) in "Tt" for tid in thread_ids(target.pid)),
            )
            at_stop = probe.hits if probe else 0
            target.signal(signal.SIGCONT)
            target.wait_event("continued")
            if probe:
                wait_until("it is hit again", lambda n=at_stop: probe.hits > n)  # type: ignore[misc]
        if engine:
            engine.stop()
        ended = target.finish()
    assert ended.report == {"did_work": 1, "ticked": 1, "wrong": 0, "strange_rips": 0}
    assert [event.split()[0] for event in ended.events] == ["stopped", "continued"] * 3 + ["exited"]


def test_a_process_that_is_stopped_when_we_attach_stays_stopped_until_sigcont() -> None:
    # GIVEN a stopped process
    with start_target(build_target("server.c"), "2") as target:
        target.signal(signal.SIGSTOP)
        target.wait_event("stopped 19")

        # WHEN it is attached to and probed
        engine = pu.attach(target.pid)
        probe = engine.probe("work")
        engine.start()
        assert all(process_state(tid) in "Tt" for tid in thread_ids(target.pid))
        assert probe.hits == 0

        # THEN it goes on at SIGCONT, and not before
        target.signal(signal.SIGCONT)
        target.wait_event("continued")
        wait_until("it is hit", lambda: probe.hits > 0)
        engine.stop()
        assert target.finish().report["wrong"] == 0


def test_a_process_that_is_stopped_when_we_detach_stays_stopped() -> None:
    # GIVEN a probed process that has been stopped
    with start_target(build_target("server.c"), "2") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("work")
        engine.start()
        wait_until("it is hit", lambda: probe.hits > 0)
        target.signal(signal.SIGSTOP)
        target.wait_event("stopped 19")

        # WHEN we leave
        engine.stop()

        # THEN it is still stopped, clean, and can be continued
        assert status_fields(target.pid)["TracerPid"] == "0"
        wait_until("it is in its group stop", lambda: process_state(target.pid) == "T")
        target.signal(signal.SIGCONT)
        target.wait_event("continued")
        assert target.finish().report["wrong"] == 0


def test_ctrl_z_in_a_terminal_suspends_and_fg_resumes() -> None:
    # GIVEN a probed program in the foreground of a terminal of its own
    program = build_target("terminal.c")
    master, slave = pty.openpty()
    with start_target(program, os.ttyname(slave)) as target:
        child = int(_line(master).split()[1])
        engine = pu.attach(child)
        probe = engine.probe("hot")
        engine.start()
        wait_until("it is hit", lambda: probe.hits > 10)

        for _ in range(3):
            # WHEN the user types Ctrl-Z
            os.write(master, b"\x1a")

            # THEN its shell sees it suspended, and resumes it
            assert _line(master) == f"stopped {int(signal.SIGTSTP)}"
            assert _line(master) == "continued"
            count = probe.hits
            wait_until("it is hit again", lambda n=count: probe.hits > n)  # type: ignore[misc]

        # AND Ctrl-C ends it as it would
        os.write(master, b"\x03")
        assert _line(master) == f"killed {int(signal.SIGINT)}"
        engine.stop()
        target.finish()
    os.close(master)
    os.close(slave)


def _line(descriptor: int) -> str:
    text = b""
    while not text.endswith(b"\n"):
        text += os.read(descriptor, 1)
    # The terminal echoes control characters as ^Z.
    return text.decode().strip().replace("^Z", "").replace("^C", "")


def test_a_sigstop_between_hits_of_many_threads_loses_no_hit() -> None:
    # GIVEN threads that count their own calls
    with start_target(build_target("threads.c"), "4", "2000") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("shared")
        engine.start()
        target.go()

        # WHEN they are stopped and continued again and again
        for _ in range(20):
            at_start = probe.hits
            target.signal(signal.SIGSTOP)
            target.signal(signal.SIGCONT)
            wait_until(
                "some run, or all is over",
                lambda n=at_start: probe.hits > n or process_state(target.pid) in "ZX",  # type: ignore[misc]
            )
        ended = target.finish()
        engine.stop()

    # THEN the count is theirs
    assert probe.hits == ended.report["shared"]
