"""What a hit costs as the number of sites in the program grows: one of them is hit, or all of them
in turn; beside it the kernel's uprobe, one of them hit.

One program with 10,000 functions is used throughout; a wildcard picks how many are probed.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.support.build import build_target

from bench.contest import Plan
from bench.contestants.contestant import BOUND_SECONDS, NotMeasured
from bench.contestants.kernel_uprobe import define, tracefs
from bench.curve import Curve, Leg, measure
from bench.elf import file_offset, symbol_addresses
from bench.job import one_cpu
from bench.replay import CLOCK
from bench.tracer_process import apart, nanoseconds, probed_run

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="scaling: sites")

_SOURCE = Path(__file__).resolve().parent / "targets" / "functions.c"
_PATTERNS = {
    1: "f00000",
    10: "f0000[0-9]",
    100: "f000[0-9][0-9]",
    1_000: "f00[0-9][0-9][0-9]",
    10_000: "f0[0-9][0-9][0-9][0-9]",
}
_QUICK = (1, 100, 10_000)
_KERNEL_MOST = 1_000
"""The kernel takes them out again one by one, tens of milliseconds each."""
_COST = 10e-6
"""About that of a hit: how many calls fill the time of a run follows from it."""
_WARM_UP = 200
"""Of targets/functions.c."""
_BUDGET = 40.0
_EVENT = f"sites_{os.getpid()}"
"""Of a name that nobody else has: uprobe_profile tells no group."""
_GROUP = f"pu_bench_scaling_{os.getpid()}"
_ONE, _ALL, _KERNEL = "one of them is hit", "all are hit in turn", "kernel uprobe, one is hit"
_POINTS = [
    pytest.param(
        series,
        sites,
        marks=[] if sites in _QUICK else [pytest.mark.full_only],
        id=f"{series}-{sites}",
    )
    for series in (_ONE, _ALL, _KERNEL)
    for sites in _PATTERNS
]


@functools.cache
def _program() -> Path:
    return build_target(_SOURCE, "-no-pie", "-fno-pie")


def _one(sites: int, calls: int) -> Mapping[str, float]:
    hit = sites // 2
    argv = [str(_program()), str(hit), "1", str(calls)]
    expected = {f"f{number:05}": 0 for number in range(sites)}
    expected[f"f{hit:05}"] = calls + _WARM_UP
    return apart(
        lambda: {
            _ONE: nanoseconds(probed_run(argv, _PATTERNS[sites], expected, one_cpu())) / calls / 1e9
        }
    )


def _all(sites: int, calls: int) -> Mapping[str, float]:
    turns = max(1, calls // sites)
    argv = [str(_program()), "0", str(sites), str(turns)]
    before = -(-_WARM_UP // sites)
    expected = {f"f{number:05}": turns + before for number in range(sites)}
    return apart(
        lambda: {
            _ALL: nanoseconds(probed_run(argv, _PATTERNS[sites], expected, one_cpu()))
            / (turns * sites)
            / 1e9
        }
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: one in the middle of the clean-up would leave probes in the kernel."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _kernel_probes(sites: int) -> Iterator[None]:
    """An event with `sites` places, taken out whatever happens."""
    place = tracefs()
    if os.geteuid() != 0:
        raise NotMeasured("needs root")
    if place is None:
        raise NotMeasured("no tracefs with uprobe_events is mounted")
    event = f"{_GROUP}/{_EVENT}"
    first = file_offset(_program(), symbol_addresses(_program())["f00000"])
    try:
        for number in range(sites):
            # Another place with the same name is added to the event.
            define(place, f"p:{event} {_program()}:{first + 16 * number:#x}")
        (place / "events" / event / "enable").write_text("1")
        yield
    finally:
        if (place / "events" / event).exists():
            (place / "events" / event / "enable").write_text("0")
            define(place, f"-:{event}")


def _kernel(sites: int, calls: int) -> Mapping[str, float]:
    place = one_cpu()
    with (
        _uninterrupted(),
        tempfile.NamedTemporaryFile("r") as report,
        _kernel_probes(sites),
    ):
        argv = [str(_program()), str(sites // 2), "1", str(calls), report.name]
        try:
            subprocess.run(
                ["taskset", "-c", str(place.tracee), *argv], check=True, timeout=BOUND_SECONDS
            )
        except subprocess.SubprocessError as error:
            raise NotMeasured(str(error)) from error
        took = nanoseconds(report.read())
        counted = _kernel_count()
    if counted != calls + _WARM_UP:
        raise NotMeasured(f"counted {counted} hits of {calls + _WARM_UP}")
    return {_KERNEL: took / calls / 1e9}


def _kernel_count() -> int:
    place = tracefs()
    assert place is not None
    rows = map(str.split, (place / "uprobe_profile").read_text().splitlines())
    return sum(int(row[-1]) for row in rows if row[-2] == _EVENT)


@functools.cache
def _curve(quick: bool, plan: Plan, progress: Callable[[str], None]) -> Curve:
    calls = int(plan.seconds / _COST)
    curve = Curve("cost per hit against sites", "sites planted", "time per hit")
    legs = (
        Leg((_ONE,), lambda sites: _one(sites, calls), one_cpu()),
        Leg((_ALL,), lambda sites: _all(sites, calls), one_cpu()),
        Leg((_KERNEL,), lambda sites: _kernel(sites, calls), one_cpu(), most=_KERNEL_MOST),
    )
    sizes = _QUICK if quick else tuple(_PATTERNS)
    return measure(curve, legs, sizes, plan.rounds, progress, _BUDGET)


@pytest.mark.parametrize(("series", "sites"), _POINTS)
def test_cost_per_hit(
    series: str,
    sites: int,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    benchmark: Any,
    not_measured: Callable[[str], NoReturn],
) -> None:
    if series == _KERNEL and sites > _KERNEL_MOST:
        not_measured(f"{sites:,} sites: the kernel takes minutes to take them out again")
    _curve(quick, plan, progress).book(benchmark, not_measured, series, sites)


@pytest.mark.parametrize("series", [_ONE, _ALL, _KERNEL])
def test_growth(
    series: str,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    figure: Callable[..., None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    _curve(quick, plan, progress).note(figure, not_measured, series)
