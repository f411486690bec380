"""A tracer of a 32-bit program that dies: the program goes on, as a 64-bit one does."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.build import build_target
from tests.support.doomed import (
    UNHARMED,
    altered,
    assert_whole_again,
    kill_many,
    kill_one_of_aloof_threads,
)
from tests.support.procfs import status_fields, wait_until
from tests.support.target import start_target
from tests.support.thirty_two import FIXED, build_32
from tests.support.tracers import Tracers, tracers

TRAP_BIT = 1 << (signal.SIGTRAP - 1)


@pytest.fixture
def started() -> Iterator[Tracers]:
    with tracers() as made:
        yield made


def test_a_32_bit_program_under_load_survives_the_kill_of_its_tracer(started: Tracers) -> None:
    kill_many(started, build_32("doomed.c"), 3, most=0.03)


def test_it_survives_a_kill_while_its_traps_are_written(started: Tracers) -> None:
    kill_many(started, build_32("doomed.c"), 2, most=0.2, planted=False)


def test_threads_that_block_all_signals_take_the_last_resort_away_for_a_moment_only(
    started: Tracers,
) -> None:
    kill_one_of_aloof_threads(started, build_32("doomed.c"))


@pytest.mark.soak
@pytest.mark.parametrize("planted", [True, False], ids=["planted", "planting"])
def test_it_does_a_thousand_times_of_a_thousand(started: Tracers, planted: bool) -> None:
    times = int(os.environ.get("KILLS", "1000"))
    kill_many(started, build_32("doomed.c"), times, 0.1 if planted else 0.4, planted=planted)


def test_a_64_bit_program_that_execs_a_32_bit_one_survives_it_too(started: Tracers) -> None:
    # GIVEN a 64-bit program, probed, that becomes a 32-bit one
    wide, narrow = build_target("execs.c"), build_32("doomed.c")
    with start_target(wide, "3", str(narrow), "4") as target:
        tracer = started.start(target.pid, ["hot*"])
        target.go()
        target.wait_ready()
        wait_until("it has its traps", lambda: len(altered(target.pid)) >= 1000)
        assert int(status_fields(target.pid)["SigCgt"], 16) & TRAP_BIT

        # WHEN the tracer is killed, THEN it goes on
        started.kill(tracer)
        assert_whole_again(target)
        ended = target.finish()
    assert ended.report.items() >= UNHARMED.items()
    assert ended.events == ("exited 0",)


@pytest.mark.parametrize("bits", [64, 32])
def test_code_of_both_modes_goes_on(started: Tracers, bits: int) -> None:
    # GIVEN a program whose code of both modes runs into one trap all the time
    build_32("modes.c", *FIXED)  # skips where there is no 32-bit code
    program = build_target("modes.c", *FIXED) if bits == 64 else build_32("modes.c", *FIXED)
    with start_target(program, "3000000") as target:
        tracer = started.start(target.pid, ["both", "behind"])
        target.go()
        wait_until("it runs", lambda: _seconds(target.pid) > 0.05)

        # WHEN the tracer is killed, THEN neither is executed as the other
        started.kill(tracer)
        assert_whole_again(target)
        assert target.finish().report == {"both": 6000000, "wrong": 0}


def _seconds(pid: int) -> float:
    nanoseconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return nanoseconds / 1e9


_COUNTED = """
import os, signal
from ptrace_uprobes.linux import ptrace_calls
calls = 0
def counted(function):
    def call(*args):
        global calls
        calls += 1
        if calls == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return call
ptrace_calls._checked = counted(ptrace_calls._checked)
ptrace_calls.fast_ptrace = counted(ptrace_calls.fast_ptrace)
os.pwrite = counted(os.pwrite)
probe("hot_00*")
engine.start()
engine.stop()
os.write(1, b"calls %d\\n" % calls)
os._exit(0)
"""


def _died_at(started: Tracers, program: Path, at: int) -> bool:
    """Kill the tracer before one of its calls on the way to its traps and back; False if it does
    not make so many."""
    with start_target(program, "1") as target:
        tracer = started.start(target.pid, [], wait=False, body=_COUNTED.format(at=at))
        died = started.wait(tracer) == 128 + signal.SIGKILL
        assert_whole_again(target)
        assert target.finish().report == UNHARMED
    return died


def _calls(started: Tracers, program: Path) -> int:
    with start_target(program, "1") as target:
        tracer = started.start(target.pid, [], wait=False, body=_COUNTED.format(at=0))
        calls = int(started.line().removeprefix("calls "))
        assert started.wait(tracer) == 0
        assert target.finish().report == UNHARMED
    return calls


@pytest.mark.parametrize("bits", [64, 32])
def test_it_survives_a_kill_at_some_of_the_tracers_calls(started: Tracers, bits: int) -> None:
    # Most of them are made while a thread of the program is borrowed.
    program = build_target("doomed.c") if bits == 64 else build_32("doomed.c")
    calls = _calls(started, program)
    chosen = random.Random(bits).sample(range(1, calls), 8)
    assert sum(_died_at(started, program, at) for at in chosen) >= 4


@pytest.mark.soak
@pytest.mark.parametrize("bits", [64, 32])
def test_it_survives_a_kill_at_every_one_of_them(started: Tracers, bits: int) -> None:
    program = build_target("doomed.c") if bits == 64 else build_32("doomed.c")
    at = 1
    while _died_at(started, program, at):
        at += 1
    assert at > 100
