"""What the guardian costs: attaching, planting a thousand sites, hits, letting go; and its memory.

Without it the engine works as it does where there can be none, as on a kernel without
memfd_create; the handler of last resort is there in both. Each run is a tracer of its own, and
runs with and without take turns.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.support.build import build_target
from tests.support.procfs import descendants
from tests.support.target import start_target

import ptrace_uprobes as pu
from bench.interval import median_with_interval
from bench.job import one_cpu
from bench.made_programs import many_functions
from bench.program import on_cpu
from bench.replay import CLOCK, replay
from bench.tracer_process import apart, nanoseconds, probed_run
from ptrace_uprobes.engine.guard import Guard

_GROUP = "guardian"
pytestmark = pytest.mark.benchmark(timer=CLOCK, group=_GROUP)

_CALLS = Path(__file__).resolve().parent / "targets" / "buffer.c"
_WARM_UP = 20
"""Hits that it does not time."""
_SITES, _HITS = 1_000, 10_000
_ROUNDS, _QUICK_ROUNDS = 15, 3
_ATTACH, _PLANT, _LET_GO, _HIT = "attach", f"plant {_SITES:,} sites", "let go", f"{_HITS:,} hits"
_PARTS = (_ATTACH, _PLANT, _HIT, _LET_GO)

Run = Mapping[str, float]


def _without_guardian() -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(Guard, "make", return_value=None)


def _guardians() -> list[int]:
    """Of this process."""
    return [
        pid
        for pid in descendants(os.getpid())
        if b"guardian_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def _plant(guarded: bool) -> Run:
    with on_cpu(one_cpu().tracer), start_target(many_functions(_SITES)) as target:
        moments = [time.perf_counter()]
        engine = pu.attach(target.pid)
        moments.append(time.perf_counter())
        probe = engine.probe("f[0-9]*")
        engine.start()
        moments.append(time.perf_counter())
        assert len(_guardians()) == guarded
        begin = time.perf_counter()
        engine.stop()
        let_go = time.perf_counter() - begin
        assert len(probe.sites) == _SITES
        assert target.finish().status == 5
    attach, plant = (after - before for before, after in itertools.pairwise(moments))
    return {_ATTACH: attach, _PLANT: plant, _LET_GO: let_go}


def _hit() -> Run:
    argv = [str(build_target(_CALLS)), str(_HITS)]
    text = probed_run(argv, "hot", _HITS + _WARM_UP, one_cpu())
    return {_HIT: nanoseconds(text) / 1e9}


def _run(guarded: bool) -> Run:
    with contextlib.nullcontext() if guarded else _without_guardian():
        return {**apart(lambda: _plant(guarded)), **apart(_hit)}


@functools.cache
def _rounds(number: int) -> list[tuple[Run, Run]]:
    """With and without, by turns."""
    return [(_run(True), _run(False)) for _ in range(number)]


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("part", _PARTS)
def test_part(benchmark: BenchmarkFixture, quick: bool, part: str, guarded: bool) -> None:
    rounds = _rounds(_QUICK_ROUNDS if quick else _ROUNDS)
    seconds = [(run if guarded else other)[part] for run, other in rounds]
    ratio = median_with_interval([run[part] / other[part] for run, other in rounds])
    which = "with" if guarded else "without"
    replay(benchmark, seconds, label=f"{part}, {which}", with_to_without=str(ratio))


def _proportional_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def test_memory(figure: Callable[..., None]) -> None:
    def work() -> Run:
        with start_target(many_functions(_SITES)) as target, pu.attach(target.pid) as engine:
            engine.probe("f[0-9]*")
            engine.start()
            guardians = _guardians()
            assert len(guardians) == 1
            return {"bytes": _proportional_bytes(guardians[0])}

    figure(_GROUP, "memory, its share of what is shared", apart(work)["bytes"], "bytes")
