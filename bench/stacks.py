"""What the user stack costs: twenty frames, cold and warm, in stops of the plain-C loop.

Timed around `hit.stack()` in a handler, the registers' reading included. Cold is the first one of
a process that has never unwound: tables and symbols of the program and of the C library are read.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.support.build import build_target

import ptrace_uprobes as pu
from bench import cost_per_hit
from bench.machine import cpus

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent
_ROUNDS = 7
_HITS = 300
_FRAMES = 20
_LOOP_HITS = 5000


def _measure(tracer: int, tracee: int) -> None:
    """In a process of its own: prints the microseconds of the first stack, and of a warm one."""
    target = build_target(_HERE / "targets" / "deep.c", "-O2", "-fomit-frame-pointer")
    took: list[float] = []

    def on_hit(hit: pu.Hit) -> None:
        started = time.perf_counter()
        stack = hit.stack()
        took.append((time.perf_counter() - started) * 1e6)
        if len(stack) != _FRAMES or stack.cut is not None:
            raise RuntimeError(f"{len(stack)} frames; cut: {stack.cut}")

    os.sched_setaffinity(0, {tracee})
    with pu.launch([str(target), str(_HITS)]) as engine:
        for tid in map(int, os.listdir("/proc/self/task")):
            os.sched_setaffinity(tid, {tracer})
        probe = engine.probe("bottom", on_hit)
        engine.run()
    if probe.handler_errors or len(took) != _HITS:
        raise RuntimeError(f"{len(took)} stacks, {probe.handler_errors} errors")
    print(took[0], statistics.median(took[10:]))


def main() -> None:
    tracer = tracee = cpus()[0]
    place = cost_per_hit.Placement("tracer and tracee on one CPU", tracer, tracee)
    reference = cost_per_hit._reference("skip", place)
    cold, warm, cold_stops, warm_stops = [], [], [], []
    for _ in range(_ROUNDS):
        loop = cost_per_hit._time(reference, _LOOP_HITS)
        command = [sys.executable, "-m", "bench.stacks", str(tracer), str(tracee)]
        result = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=_HERE.parent
        )
        first, again = map(float, result.stdout.split())
        cold.append(first)
        warm.append(again)
        cold_stops.append(first / loop)
        warm_stops.append(again / loop)
    print(f"{place.name}; medians of {_ROUNDS} rounds, each beside its own run of the C loop")
    print(
        f"  {_FRAMES} frames, warm {statistics.median(warm):9.1f} µs"
        f" = {statistics.median(warm_stops):7.1f} C-loop stops"
        f" [{min(warm_stops):.1f} to {max(warm_stops):.1f}]   goal: at most 30"
    )
    print(
        f"  {_FRAMES} frames, cold {statistics.median(cold):9.1f} µs"
        f" = {statistics.median(cold_stops):7.1f} C-loop stops"
        f" [{min(cold_stops):.1f} to {max(cold_stops):.1f}]   goal: none"
    )


if __name__ == "__main__":
    _measure(*map(int, sys.argv[1:]))
