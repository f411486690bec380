"""What a hit costs as it records more: frames of the stack, bytes of memory; and what a call costs
under a return probe as more of its function's calls are open.

The stack has 200 frames and more in every run; `limit` says how many are taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.support.build import build_target

import ptrace_uprobes as pu
from bench.contest import Plan
from bench.curve import Curve, Leg, measure
from bench.job import one_cpu
from bench.replay import CLOCK
from bench.tracer_process import apart, nanoseconds, probed_run

_TARGETS = Path(__file__).resolve().parent / "targets"
_WARM_UP = 20
"""Of targets/descent.c and targets/buffer.c."""
_LEAST_CALLS = 20
_BUDGET = 25.0

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="scaling: what a hit records")


@functools.cache
def _descent() -> Path:
    return build_target(_TARGETS / "descent.c", "-O2", "-fomit-frame-pointer")


@functools.cache
def _buffer() -> Path:
    return build_target(_TARGETS / "buffer.c")


def _calls(plan: Plan, cost: float) -> int:
    return max(_LEAST_CALLS, int(plan.seconds / cost))


def _stack(frames: int, plan: Plan) -> float:
    calls = _calls(plan, 50e-6 + 5e-6 * frames)

    def take(hit: pu.Hit) -> None:
        if len(hit.stack(frames)) != frames:
            raise ValueError("the stack is cut")

    argv = [str(_descent()), "stack", str(_FRAMES[-1]), str(calls)]
    text = probed_run(argv, "bottom", calls + _WARM_UP, one_cpu(), take)
    return nanoseconds(text) / calls / 1e9


def _returns(depth: int, plan: Plan) -> float:
    times = max(1, int(plan.seconds / 25e-6 / depth))
    argv = [str(_descent()), "return", str(depth), str(times)]
    before = 1 + _WARM_UP // depth
    text = probed_run(argv, "climb%return", (times + before) * depth, one_cpu())
    return nanoseconds(text) / (times * depth) / 1e9


def _data(length: int, plan: Plan) -> float:
    calls = _calls(plan, 25e-6 + 0.5e-9 * length)
    wanted = bytes(i % 251 for i in range(length))
    compared = False

    def take(hit: pu.Hit) -> None:
        nonlocal compared
        data = hit.read(hit.argument(0), length)
        # Once, not to add the cost of comparing to each.
        if len(data) != length or (not compared and data != wanted):
            raise ValueError("these are not the data")
        compared = True

    argv = [str(_buffer()), str(calls)]
    text = probed_run(argv, "hot", calls + _WARM_UP, one_cpu(), take)
    return nanoseconds(text) / calls / 1e9


@dataclass(frozen=True, slots=True)
class _Kind:
    curve: str
    x_name: str
    y_name: str
    sizes: Sequence[int]
    quick: Sequence[int]
    run: Callable[[int, Plan], float]


_FRAMES = (1, 5, 20, 50, 100, 200)
_KINDS = {
    "stack": _Kind(
        "cost per hit against frames", "frames taken", "time per hit", _FRAMES, (1, 20, 200), _stack
    ),
    "return": _Kind(
        "cost per call against recursion",
        "calls open at once, at most",
        "time per call with its return",
        (1, 10, 100, 1_000, 10_000),
        (1, 100, 10_000),
        _returns,
    ),
    "data": _Kind(
        "cost per hit against data",
        "bytes read",
        "time per hit",
        (8, 64, 512, 4_096, 32_768, 262_144, 1_048_576),
        (8, 4_096, 1_048_576),
        _data,
    ),
}
_SERIES = {
    "stack": "hit.stack()",
    "return": "a return probe, counted only",
    "data": "hit.read()",
}


@functools.cache
def _curve(kind: str, quick: bool, plan: Plan, progress: Callable[[str], None]) -> Curve:
    what = _KINDS[kind]
    series = _SERIES[kind]

    def run(size: int) -> Mapping[str, float]:
        return apart(lambda: {series: what.run(size, plan)})

    curve = Curve(what.curve, what.x_name, what.y_name)
    sizes = what.quick if quick else what.sizes
    return measure(curve, [Leg((series,), run, one_cpu())], sizes, plan.rounds, progress, _BUDGET)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        pytest.param(kind, size, marks=[] if size in what.quick else [pytest.mark.full_only])
        for kind, what in _KINDS.items()
        for size in what.sizes
    ],
)
def test_cost_per_hit(
    kind: str,
    size: int,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    benchmark: Any,
    not_measured: Callable[[str], NoReturn],
) -> None:
    _curve(kind, quick, plan, progress).book(benchmark, not_measured, _SERIES[kind], size)


@pytest.mark.parametrize("kind", _KINDS)
def test_growth(
    kind: str,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    figure: Callable[..., None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    _curve(kind, quick, plan, progress).note(figure, not_measured, _SERIES[kind])
