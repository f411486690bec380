"""A program under load (targets/doomed.c) whose tracer is killed, and what must be true then."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.support.procfs import (
    altered_text,
    process_state,
    status_fields,
    thread_ids,
    wait_until,
)
from tests.support.target import Target, start_target
from tests.support.tracers import Tracers

__all__ = [
    "UNHARMED",
    "altered",
    "assert_whole_again",
    "kill_many",
    "kill_one",
    "kill_one_of_aloof_threads",
]

UNHARMED = {"worked": 1, "wrong": 0}
THOUSAND = ("hot_*", "libc:strtoul", "libc:strlen", "libc:memset")


def altered(pid: int) -> set[tuple[str, int, int, int]]:
    """But for kernel uprobes of others, which show in every process that maps the file."""
    found = set(altered_text(pid))
    return found - set(altered_text(os.getpid())) if found else found


def assert_whole_again(target: Target) -> None:
    """Nobody traces it, its text is its files', and none of its threads stands still."""
    wait_until("its text is restored", lambda: not altered(target.pid))
    assert status_fields(target.pid)["TracerPid"] == "0"
    for tid in thread_ids(target.pid):
        wait_until("it runs", lambda tid=tid: process_state(tid) in "RSDX")  # type: ignore[misc]


def kill_one(started: Tracers, program: Path, delay: float, *, planted: bool = True) -> None:
    """A target under load, a tracer that is killed after `delay` seconds, a target unharmed."""
    with start_target(program, "8") as target:
        tracer = started.start(target.pid, THOUSAND, wait=planted)
        time.sleep(delay)
        assert not planted or len(altered(target.pid)) > 1000
        started.kill(tracer)
        assert_whole_again(target)
        ended = target.finish()
    assert ended.report == UNHARMED
    assert ended.events == ("exited 0",)


def kill_many(
    started: Tracers, program: Path, times: int, most: float, *, planted: bool = True
) -> None:
    """At random moments up to `most` seconds; says how many in the run's output (`-rP`)."""
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for number in range(times):
        try:
            kill_one(started, program, moments.random() * most, planted=planted)
        except (AssertionError, TimeoutError, EOFError) as error:
            raise AssertionError(f"kill {number + 1} of {times}, seed {seed}: {error}") from error
    sys.stdout.write(f"{times} of {times} kills survived, seed {seed}\n")


def kill_one_of_aloof_threads(started: Tracers, program: Path) -> None:
    """Threads that block all signals have hit: the kernel has unblocked SIGTRAP in each, and has
    made its action the default. Soon a kill of the tracer harms nobody all the same."""
    with start_target(program, "4", "aloof") as target:
        tracer = started.start(target.pid, THOUSAND)
        workers = set(thread_ids(target.pid)) - {target.pid}
        assert len(workers) == 4
        for tid in workers:
            wait_until("it has hit", lambda tid=tid: not _has_trap(tid, "SigBlk"))  # type: ignore[misc]
        wait_until("the last resort is back", lambda: _has_trap(target.pid, "SigCgt"))
        started.kill(tracer)
        assert_whole_again(target)
        ended = target.finish()
    assert ended.report == UNHARMED
    assert ended.events == ("exited 0",)


def _has_trap(tid: int, field: str) -> bool:
    return bool(int(status_fields(tid)[field], 16) >> (signal.SIGTRAP - 1) & 1)
