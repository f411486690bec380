"""Throughput as more threads of one program, or more processes, hit at once under one tracer.

The processes are children that the target forks (`follow_forks=True`): each has memory, and so
traps, of its own. All of them share one CPU, with the tracer or beside it. The time per hit is that
from the first one's start to the last one's end, by the number of hits of all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.support.build import build_target

from bench.contest import Plan
from bench.curve import Curve, Leg, measure
from bench.job import Placement, placements
from bench.replay import CLOCK
from bench.tracer_process import apart, nanoseconds, probed_run

_SOURCE = Path(__file__).resolve().parent / "targets" / "crowd.c"
_SIZES = {"threads": (1, 2, 4, 8, 16, 32), "processes": (1, 2, 4, 8, 16, 32, 64)}
_QUICK = {"threads": (1, 8, 32), "processes": (1, 8, 64)}
_WARM_UP = 20
"""Of targets/crowd.c."""
_COST = 15e-6
_LEAST_CALLS = 50
_BUDGET = 20.0
_SERIES = ("one CPU", "two CPUs")

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="scaling: threads and processes")


@functools.cache
def _program() -> Path:
    return build_target(_SOURCE)


def _run(kind: str, count: int, plan: Plan, placement: Placement) -> Mapping[str, float]:
    each = max(_LEAST_CALLS, int(plan.seconds / _COST / count))
    argv = [str(_program()), kind, str(count), str(each)]

    def work() -> Mapping[str, float]:
        text = probed_run(
            argv, "hot", (each + _WARM_UP) * count, placement, follow_forks=kind == "processes"
        )
        return {placement.name: nanoseconds(text) / (each * count) / 1e9}

    return apart(work)


@functools.cache
def _curve(kind: str, quick: bool, plan: Plan, progress: Callable[[str], None]) -> Curve:
    curve = Curve(f"hits of many {kind}", f"{kind} that hit", "time per hit, of all together")
    legs = [
        Leg((each.name,), functools.partial(_run, kind, plan=plan, placement=each), each)
        for each in placements()
    ]
    sizes = _QUICK[kind] if quick else _SIZES[kind]
    return measure(curve, legs, sizes, plan.rounds, progress, _BUDGET)


@pytest.mark.parametrize(
    ("kind", "series", "count"),
    [
        pytest.param(
            kind, series, count, marks=[] if count in _QUICK[kind] else [pytest.mark.full_only]
        )
        for kind, counts in _SIZES.items()
        for series in _SERIES
        for count in counts
    ],
)
def test_throughput(
    kind: str,
    series: str,
    count: int,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    benchmark: Any,
    not_measured: Callable[[str], NoReturn],
) -> None:
    curve = _curve(kind, quick, plan, progress)
    if series not in curve.points:
        not_measured("needs two CPUs")
    curve.book(benchmark, not_measured, series, count)


@pytest.mark.parametrize("series", _SERIES)
@pytest.mark.parametrize("kind", _SIZES)
def test_growth(
    kind: str,
    series: str,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    figure: Callable[..., None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    curve = _curve(kind, quick, plan, progress)
    if series not in curve.points:
        not_measured("needs two CPUs")
    curve.note(figure, not_measured, series)
