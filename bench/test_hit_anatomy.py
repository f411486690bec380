"""Where the time of one hit goes: what each layer adds to the one below it.

The layers run in the same rounds, so that what one adds is a difference within a round.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from tests.support.build import build_target

from bench.contest import Measurement, Plan, run_contest
from bench.contestants.contestant import Contestant
from bench.contestants.ours import Ours
from bench.contestants.plain import CLoop, NoProbe
from bench.contestants.python_loop import PythonLoop
from bench.interval import median_with_interval
from bench.job import SITES, Task, one_cpu
from bench.replay import CLOCK, replay
from ptrace_uprobes.engine import counting

pytestmark = pytest.mark.benchmark(timer=CLOCK)

GROUP = "where the time of one hit goes, one CPU"

_ENGINE = "the engine: whose stop, which site, is it a trap; the count"
# Where hits are counted in C, what Python costs is no part of that: it begins with the handler.
_COUNTED: tuple[tuple[Contestant, str], ...] = (
    ((Ours("count"), f"{_ENGINE}; in C"),)
    if counting.serve is not counting.serve_in_python
    else (
        (PythonLoop("peek"), "Python: os.waitpid() and ptrace() called through ctypes"),
        (Ours("count"), f"{_ENGINE}; in Python"),
    )
)
_LAYERS: tuple[tuple[Contestant, str], ...] = (
    (NoProbe(), "the call itself"),
    (CLoop("bare"), "the kernel: trap, stop, two switches, wait, continue"),
    (CLoop("peek"), "ptrace: RIP read and written"),
    *_COUNTED,
    (Ours("handler"), "Python: the stop taken over, a Hit made, the handler called"),
    (Ours("registers"), "the registers read (GETREGS)"),
)


@functools.cache
def _contest(plan: Plan, progress: Callable[[str], None]) -> dict[str, Measurement]:
    contestants = [contestant for contestant, _ in _LAYERS]
    return run_contest(contestants, SITES["nop"], Task.COUNT, one_cpu(), plan, progress)


@pytest.mark.parametrize("layer", range(len(_LAYERS)), ids=[each.name for each, _ in _LAYERS])
def test_layer(
    layer: int,
    plan: Plan,
    progress: Callable[[str], None],
    book: Callable[..., None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    results = _contest(plan, progress)
    contestant, what = _LAYERS[layer]
    result = results[contestant.name]
    below = [0.0] * len(result.seconds)
    if layer:
        before = results[_LAYERS[layer - 1][0].name]
        if before.not_measured is not None or len(before.seconds) != len(result.seconds):
            not_measured(f"the layer below was not measured: {before.not_measured}")
        below = before.seconds
    added = [mine - theirs for mine, theirs in zip(result.seconds, below, strict=True)]
    facts = {}
    if added:
        estimate = median_with_interval(added)
        facts = {"added": estimate.median, "added_low": estimate.low, "added_high": estimate.high}
    book(result, GROUP, kind="layer", layer=layer, adds=what, **facts)


@pytest.mark.parametrize("name", ["system_call", "switch", "trap"])
def test_primitive(name: str, plan: Plan, benchmark: object) -> None:
    """What the kernel's part is made of: a bare system call, a switch between two processes, an
    int3 that the program serves itself."""
    program = build_target(Path(__file__).resolve().parent / "targets" / "primitives.c", "-O2")
    cpu = str(one_cpu().tracee)
    seconds = []
    for _ in range(plan.rounds):
        run = subprocess.run([program, cpu], check=True, capture_output=True, text=True)
        values = dict(line.split() for line in run.stdout.splitlines())
        seconds.append(float(values[name]) / 1e9)
    benchmark.group = GROUP  # type: ignore[attr-defined]  # the fixture's class is not exported
    replay(benchmark, seconds, kind="primitive", primitive=name)  # type: ignore[arg-type]
