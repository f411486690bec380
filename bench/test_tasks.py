"""What each kind of work costs at a hit, on one CPU and on two; and the stack of twenty frames.

The stack of the first contest is that of a function right below main(), and its cost the whole
hit's. The deep one has a target of its own, and only `hit.stack()` is timed, in the handler: with
the registers' reading, without the stop. Cold is the first of a process that has never unwound,
warm are the others. Its unit is one stop of the
plain-C loop, run right before.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.support.build import build_target

from bench.contest import WIDE, Measurement, Plan, run_contest
from bench.contestants.contestant import BOUND_SECONDS, ROOT, NotMeasured
from bench.contestants.ours import WORKS, Ours
from bench.contestants.plain import reference
from bench.interval import median_with_interval
from bench.job import SITES, Job, Placement, Task, placements
from bench.replay import CLOCK, replay

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="work at a hit")

_SITE = "endbr"
_CONTESTANTS = {
    **{work: Ours(work) for work in WORKS},
    "handler, emulate": Ours("handler", mechanism="emulate"),
    "handler, step": Ours("handler", mechanism="step"),
}
_GOALS = {
    "count": "at most 1.4",
    "handler": "at most 1.6, ambition 1.25",
    "handler, emulate": "at most 1.6, ambition 1.25",
    "filter": "at most 1.8",
    "fetchargs": "at most 3.0",
}
_PLACEMENTS = {place.name: place for place in placements()}
_QUICK = ("count", "handler", "argument", "fetchargs", "filter", "return", "stack")
_QUICK_ON_TWO_CPUS = ("handler",)


def _quick_works(place: Placement) -> tuple[str, ...]:
    return _QUICK if place.tracer == place.tracee else _QUICK_ON_TWO_CPUS


@functools.cache
def _contest(
    place: Placement, works: tuple[str, ...], plan: Plan, progress: Callable[[str], None]
) -> dict[str, Measurement]:
    return run_contest(
        [_CONTESTANTS[work] for work in works],
        SITES[_SITE],
        Task.COUNT,
        place,
        plan,
        lambda text: progress(f"{place.name}: {text}"),
    )


@pytest.mark.parametrize(
    ("place", "work"),
    [
        pytest.param(
            place,
            work,
            marks=[] if work in _quick_works(place) else [pytest.mark.full_only],
            id=f"{place.name}-{work}",
        )
        for place in _PLACEMENTS.values()
        for work in _CONTESTANTS
    ],
)
def test_work(
    place: Placement,
    work: str,
    plan: Plan,
    quick: bool,
    progress: Callable[[str], None],
    book: Callable[..., None],
) -> None:
    works = _quick_works(place) if quick else tuple(_CONTESTANTS)
    result = _contest(place, works, plan, progress)[_CONTESTANTS[work].name]
    book(
        result,
        f"work at a hit, {place.name}",
        kind="work at a hit",
        work=work,
        # Of one CPU, where both sides wait for nothing but each other.
        goal="" if place.tracer != place.tracee else _GOALS.get(work, ""),
    )


_FRAMES = 20
_STATES = ("cold", "warm")
_DEEP_GOALS = {"warm": "at most 30"}
_WARM_FROM = 10


@functools.cache
def _deep_runs(
    place: Placement, quick: bool, progress: Callable[[str], None]
) -> tuple[dict[str, list[float]], list[float]] | str:
    """Seconds a stack by state, a round each, and seconds a stop of the C loop; or what failed."""
    rounds, hits = (3, 100) if quick else (9, 300)
    program = build_target(
        Path(__file__).resolve().parent / "targets" / "deep.c", "-O2", "-fomit-frame-pointer"
    )
    loop_job = Job(SITES[_SITE], Task.COUNT, 2000 if quick else 5000, place)
    command = [sys.executable, "-m", "bench.deep_run", str(program), str(hits), str(_FRAMES)]
    took: dict[str, list[float]] = {state: [] for state in _STATES}
    stops: list[float] = []
    for number in range(rounds):
        progress(f"a stack of {_FRAMES} frames: round {number + 1} of {rounds}")
        try:
            stops.append(reference().run(loop_job).seconds_per_hit)
            result = subprocess.run(
                [*command, str(place.tracer), str(place.tracee)],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
                timeout=BOUND_SECONDS,
            )
        except (NotMeasured, subprocess.TimeoutExpired) as error:
            return str(error)
        if result.returncode != 0:
            return (result.stderr.strip().splitlines() or ["it says nothing"])[-1]
        first, *others = (int(line) / 1e9 for line in result.stdout.split())
        took["cold"].append(first)
        took["warm"].append(statistics.median(others[_WARM_FROM - 1 :]))
    return took, stops


@pytest.mark.parametrize("state", _STATES)
def test_deep_stack(
    state: str,
    benchmark: BenchmarkFixture,
    quick: bool,
    progress: Callable[[str], None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    place = next(iter(_PLACEMENTS.values()))
    runs = _deep_runs(place, quick, progress)
    if isinstance(runs, str):
        not_measured(runs)
    took, stops = runs
    ratios = [stack / stop for stack, stop in zip(took[state], stops, strict=True)]
    ratio = median_with_interval(ratios)
    benchmark.group = f"hit.stack() of {_FRAMES} frames, without the stop"
    replay(
        benchmark,
        took[state],
        kind="stack",
        contestant=f"ptrace_uprobes, {state}",
        # The contestant is what the report's promises look for.
        label=f"ptrace_uprobes, hit.stack(), {state}",
        frames=_FRAMES,
        placement=place.name,
        cpus=[place.tracer, place.tracee],
        ratio=ratio.median,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        ratios=ratios,
        disturbed=ratio.high - ratio.low > WIDE * ratio.median,
        goal=_DEEP_GOALS.get(state, ""),
    )
