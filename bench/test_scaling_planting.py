"""How long it takes to plant in a running process, and to let go of it.

Against the size of its file: from before the attach until one probe is in place, in a program of
1,000 to 100,000 functions, by a tracer that has never read the file (it is in the page cache).
Against the number of sites: one probe whose wildcard picks 1,000 to 10,000 functions of one
program, from asking for it until all traps stand; and the detach that takes them out.
The truth: the sites are as many as the wildcard picks, and one call is one hit.
"""

from __future__ import annotations

import functools
import os
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
from bench.job import one_cpu
from bench.replay import CLOCK
from bench.tracer_process import apart, bind

_TARGETS = Path(__file__).resolve().parent / "targets"
_BUDGET = 30.0
_ATTACH, _PLANT, _DETACH = "attach and plant one", "plant", "detach"
_PATTERNS = {1_000: "f00*", 3_000: "f0[0-2]*", 10_000: "f0*"}
_SIZES = {
    "symbols": (1_000, 3_000, 10_000, 30_000, 100_000),
    "sites": tuple(_PATTERNS),
}
_QUICK = {"symbols": (1_000, 100_000), "sites": (1_000, 10_000)}
_SERIES = {"symbols": (_ATTACH,), "sites": (_PLANT, _DETACH)}
_NAMES = {
    "symbols": ("planting against the size of the file", "functions in the file", "time"),
    "sites": ("planting against sites", "sites planted", "time"),
}

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="scaling: planting")


def _symbols(count: int) -> Path:
    return build_target(_TARGETS / "symbols.c", f"-DSYMBOLS={count}")


@functools.cache
def _functions() -> Path:
    return build_target(_TARGETS / "functions.c", "-no-pie", "-fno-pie")


def _plant(argv: list[str], spec: str, sites: int) -> Mapping[str, float]:
    """Seconds of each part. To be called in a process of its own."""
    bind(one_cpu().tracer)
    with start_target(*argv) as target:
        begin = time.perf_counter()
        with pu.attach(target.pid) as engine:
            attached = time.perf_counter()
            probe = engine.probe(spec)
            engine.start()  # writes the traps
            planted = time.perf_counter()
            target.go()
            target.wait_ready()  # it has called its one function
            before = time.perf_counter()
            engine.stop()
            detached = time.perf_counter()
        ended = target.finish()
    if ended.status != 0:
        raise NotMeasured(f"the target ended with {ended.status}")
    if len(probe.sites) != sites:
        raise NotMeasured(f"{len(probe.sites)} sites planted of {sites}")
    if probe.hits != 1:
        raise NotMeasured(f"counted {probe.hits} hits of 1")
    return {_ATTACH: planted - begin, _PLANT: planted - attached, _DETACH: detached - before}


def _run(kind: str, size: int) -> Mapping[str, float]:
    if kind == "symbols":
        argv, spec, sites = [str(_symbols(size))], "function_0", 1
    else:
        argv, spec, sites = [str(_functions()), "0", "0", "0", "-"], _PATTERNS[size], size
    return apart(lambda: _plant(argv, spec, sites))


@functools.cache
def _curve(kind: str, quick: bool, plan: Plan, progress: Callable[[str], None]) -> Curve:
    leg = Leg(_SERIES[kind], functools.partial(_run, kind), one_cpu())
    sizes = _QUICK[kind] if quick else _SIZES[kind]
    return measure(Curve(*_NAMES[kind]), [leg], sizes, plan.rounds, progress, _BUDGET)


@pytest.mark.parametrize(
    ("kind", "series", "size"),
    [
        pytest.param(
            kind, series, size, marks=[] if size in _QUICK[kind] else [pytest.mark.full_only]
        )
        for kind, sizes in _SIZES.items()
        for series in _SERIES[kind]
        for size in sizes
    ],
)
def test_time(
    kind: str,
    series: str,
    size: int,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    benchmark: Any,
    not_measured: Callable[[str], NoReturn],
) -> None:
    curve = _curve(kind, quick, plan, progress)
    file = _symbols(size) if kind == "symbols" else _functions()
    curve.book(benchmark, not_measured, series, size, file_bytes=os.path.getsize(file))


@pytest.mark.parametrize(
    ("kind", "series"), [(kind, series) for kind in _SIZES for series in _SERIES[kind]]
)
def test_growth(
    kind: str,
    series: str,
    quick: bool,
    plan: Plan,
    progress: Callable[[str], None],
    figure: Callable[..., None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    _curve(kind, quick, plan, progress).note(figure, not_measured, series)
