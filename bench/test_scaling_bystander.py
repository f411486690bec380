"""What a thread that hits nothing loses while others hit.

The hitting threads and the tracer share one CPU, and the bystander has the other one for itself: it
computes without memory or system calls, so that all it can lose is being stopped. Time in which
a program of somebody else has that CPU is left out. The others call the probed function in every
second phase, and wait in between. Two ratios are told: to the phases beside, in which they
wait; and to the run right after, in which nothing is probed and they call just the same, so that
their CPU is as busy, which matters where both share a core.
"""

from __future__ import annotations

import functools
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.support.build import build_target

from bench.contest import Plan
from bench.contestants.contestant import BOUND_SECONDS, NotMeasured
from bench.curve import Curve, Leg, measure
from bench.job import Placement
from bench.machine import cpus
from bench.replay import CLOCK
from bench.tracer_process import apart, probed_run

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="scaling: a thread that hits nothing")

_SOURCE = Path(__file__).resolve().parent / "targets" / "bystander.c"
_THREADS = (1, 2, 4, 8, 16, 32)
_QUICK = (1, 32)
_PHASES = 10
_BUDGET = 45.0
_HITTING = "others hit"
_BLOCKED = "probed, others wait"
_UNPROBED = "not probed, others call"
_IDLE = "not probed, others wait"
_SERIES = (_HITTING, _BLOCKED, _UNPROBED, _IDLE)


@functools.cache
def _program() -> Path:
    return build_target(_SOURCE, "-O2")


def _placement() -> Placement:
    first = cpus()[0]
    return Placement("tracer and hitting threads on one CPU, bystander on another", first, first)


def _seconds_per_step(text: str, phase: str) -> float:
    found = [int(number) for number in re.findall(rf"^{phase} (\d+)$", text, re.MULTILINE)]
    if len(found) != _PHASES // 2:
        raise NotMeasured(f"{len(found)} phases of {_PHASES // 2} were measured")
    return statistics.median(found) / 1e15


def _unprobed(argv: list[str]) -> str:
    with tempfile.NamedTemporaryFile("r") as report:
        try:
            subprocess.run([*argv, report.name], check=True, timeout=BOUND_SECONDS)
        except subprocess.SubprocessError as error:
            raise NotMeasured(str(error)) from error
        return report.read()


def _run(threads: int, plan: Plan) -> Mapping[str, float]:
    if len(cpus()) < 2:
        raise NotMeasured("needs two CPUs")
    place = _placement()
    phase = max(10, int(plan.seconds * 250))
    argv = [str(_program()), str(threads), str(_PHASES), str(phase)]
    argv += [str(place.tracee), str(cpus()[-1])]

    def work() -> Mapping[str, float]:
        text = probed_run(argv, "hot", None, place)
        return {
            _HITTING: _seconds_per_step(text, "hitting"),
            _BLOCKED: _seconds_per_step(text, "blocked"),
        }

    probed = apart(work)
    text = _unprobed(argv)
    return {
        **probed,
        _UNPROBED: _seconds_per_step(text, "hitting"),
        _IDLE: _seconds_per_step(text, "blocked"),
    }


@functools.cache
def _curve(quick: bool, plan: Plan, progress: Callable[[str], None]) -> Curve:
    curve = Curve("a thread that hits nothing", "threads that hit", "time per step of its work")
    leg = Leg(_SERIES, functools.partial(_run, plan=plan), _placement())
    return measure(curve, [leg], _QUICK if quick else _THREADS, plan.rounds, progress, _BUDGET)


def _siblings() -> str:
    """Whether the two CPUs are of one core."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpus()[0]}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return "unknown"


@pytest.mark.parametrize("series", _SERIES)
@pytest.mark.parametrize(
    "threads",
    [
        pytest.param(each, marks=[] if each in _QUICK else [pytest.mark.full_only])
        for each in _THREADS
    ],
)
def test_speed(
    threads: int,
    series: str,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    benchmark: Any,
    not_measured: Callable[[str], NoReturn],
    figure: Callable[..., None],
) -> None:
    curve = _curve(quick, plan, progress)
    curve.book(
        benchmark,
        not_measured,
        series,
        threads,
        bystander_cpu=cpus()[-1],
        thread_siblings=_siblings(),
    )
    if series != _HITTING:
        return
    hitting = "1 thread hits" if threads == 1 else f"{threads} threads hit"
    for beside in (_BLOCKED, _UNPROBED):
        # The time per step without, by that with: the share of its speed that is left.
        kept = curve.ratio(beside, threads, _HITTING, threads)
        assert kept is not None
        figure(
            group="bystander",
            name=f"speed while {hitting}, to: {beside}",
            value=kept.median,
            unit="share",
            low=kept.low,
            high=kept.high,
            threads=threads,
            placement=curve.placements[series].name,
            promised=0.99,
        )


@pytest.mark.parametrize("series", _SERIES)
def test_growth(
    series: str,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    figure: Callable[..., None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    _curve(quick, plan, progress).note(figure, not_measured, series)
