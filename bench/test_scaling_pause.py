"""How long the threads of a program stand still while it is attached to, and while it is let go.

Each thread, the main one too, reads CLOCK_MONOTONIC, sleeps shortly, and reads again; it keeps the
largest gap between two readings. What is told of a run is the largest of all threads, less the
sleep that was asked for: how much later than due a thread came back. A thread that is stopped
during its sleep notices only what goes beyond it, so the pause is up to one sleep longer than told,
with any number of threads. The tracer has a CPU of its own where there are two. Beside it the same
over as long a time in which nothing is done, in the same process: threads wait for each other too.

Where someone else takes the CPU all threads are late together, by milliseconds, also with nothing
done: the entry has the `longest` of all runs beside the median. No power of a size describes such
a mixture, so none is fitted.

Attaching includes one probe, detaching takes it out. The truth: one call of its function
while attached is one hit.
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.support.build import build_target
from tests.support.target import start_target

import ptrace_uprobes as pu
from bench.contest import Plan
from bench.contestants.contestant import NotMeasured
from bench.curve import Curve, Leg, measure
from bench.job import Placement, placements
from bench.replay import CLOCK
from bench.tracer_process import apart, bind

_SOURCE = Path(__file__).resolve().parent / "targets" / "standstill.c"
_THREADS = (1, 2, 4, 8, 16, 32, 64)
_QUICK = (1, 8, 64)
_BUDGET = 30.0
_ATTACH, _DETACH, _NEITHER = "attach", "detach", "neither"
_SERIES = (_ATTACH, _DETACH, _NEITHER)
_MOST, _PHASES = 1024, 8
"""Of targets/standstill.c."""
_PATIENCE = 20.0
_SLEEP_MICROSECONDS = 400
"""As short as leaves the CPU mostly idle with the most threads: at 100 they are 5 ms late by
themselves, at 400 they are 0.4 ms."""

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="scaling: standing still")


@functools.cache
def _program() -> Path:
    return build_target(_SOURCE)


class _Board:
    """What the threads write down, mapped: the layout is that of targets/standstill.c."""

    def __init__(self, file: int, threads: int) -> None:
        self._memory = mmap.mmap(file, 8 * (1 + _MOST + _PHASES * _MOST))
        self._threads = threads
        self._row = struct.Struct(f"{threads}Q")

    def largest(self, phase: int) -> int:
        """Gap in nanoseconds that any thread has found in `phase`."""
        row: tuple[int, ...] = self._row.unpack_from(self._memory, 8 * (1 + _MOST + phase * _MOST))
        return max(row)

    def during(self, phase: int, action: Callable[[], object]) -> int:
        """The largest gap that ends while `action` is done, or begins then."""
        self._settle()
        self._set(phase)
        action()
        self._settle()
        self._set(0)
        self._settle()
        return self.largest(phase)

    def close(self) -> None:
        self._memory.close()

    def _set(self, phase: int) -> None:
        struct.pack_into("Q", self._memory, 0, phase)

    def _settle(self) -> None:
        """Until each thread has read its clock twice: no gap that began before is open."""
        wanted = [count + 2 for count in self._row.unpack_from(self._memory, 8)]
        deadline = time.monotonic() + _PATIENCE
        while any(
            count < least
            for count, least in zip(self._row.unpack_from(self._memory, 8), wanted, strict=True)
        ):
            if time.monotonic() > deadline:
                raise NotMeasured(f"a thread stood still for {_PATIENCE:.0f} s")
            time.sleep(0.0005)


def _pauses(threads: int, placement: Placement) -> Mapping[str, float]:
    """To be called in a process of its own."""
    os.sched_setaffinity(0, {placement.tracee})
    with tempfile.NamedTemporaryFile(prefix="bench-") as file:
        file.truncate(8 * (1 + _MOST + _PHASES * _MOST))
        with start_target(_program(), str(threads), str(_SLEEP_MICROSECONDS), file.name) as target:
            bind(placement.tracer)
            board = _Board(file.fileno(), threads)
            engines: list[tuple[pu.Engine, pu.Probe]] = []

            def attach() -> None:
                engine = pu.attach(target.pid)
                engines.append((engine, engine.probe("marked")))
                engine.start()

            begun = time.monotonic()
            gaps = {_ATTACH: board.during(1, attach)}
            took = time.monotonic() - begun
            engine, probe = engines[0]
            with engine:
                target.go()
                target.wait_ready()  # it has called marked()
                gaps[_DETACH] = board.during(2, engine.stop)
            gaps[_NEITHER] = board.during(3, lambda: time.sleep(took))
            board.close()
            ended = target.finish()
    if ended.status != 0:
        raise NotMeasured(f"the target ended with {ended.status}")
    if probe.hits != 1:
        raise NotMeasured(f"counted {probe.hits} hits of 1")
    return {series: max(1, gap - 1000 * _SLEEP_MICROSECONDS) / 1e9 for series, gap in gaps.items()}


@functools.cache
def _curve(quick: bool, plan: Plan, progress: Callable[[str], None]) -> Curve:
    placement = placements()[-1]
    leg = Leg(_SERIES, lambda threads: apart(lambda: _pauses(threads, placement)), placement)
    curve = Curve(
        "standing still", "threads of the program", "longest lateness of any thread, per run"
    )
    return measure(curve, [leg], _QUICK if quick else _THREADS, plan.rounds, progress, _BUDGET)


@pytest.mark.parametrize("series", _SERIES)
@pytest.mark.parametrize(
    "threads",
    [
        pytest.param(each, marks=[] if each in _QUICK else [pytest.mark.full_only])
        for each in _THREADS
    ],
)
def test_pause(
    threads: int,
    series: str,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    benchmark: Any,
    not_measured: Callable[[str], NoReturn],
) -> None:
    curve = _curve(quick, plan, progress)
    curve.book(
        benchmark,
        not_measured,
        series,
        threads,
        longest=max(curve.seconds(series, threads), default=0.0),
        sleep_seconds=_SLEEP_MICROSECONDS / 1e6,
    )
