"""The cost of one hit: ours beside the plain-C loop, in alternation and in the same place."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.build import build_target
from tests.support.elf_tools import functions
from tests.support.target import parse_report

from bench.interval import median_with_interval
from bench.machine import cpus

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent
_HITS = int(os.environ.get("BENCH_HITS", "20000"))
_PAIRS = int(os.environ.get("BENCH_PAIRS", "11"))


@dataclass(frozen=True, slots=True)
class Placement:
    name: str
    tracer: int
    tracee: int


@dataclass(frozen=True, slots=True)
class Contest:
    """What of ours runs against which loop of the reference."""

    ours: str
    kind: str
    mechanism: str
    reference: str
    goal: str


CONTESTS = (
    Contest("count only, auto", "count", "auto", "skip", "at most 1.40"),
    Contest("empty Python handler, auto", "handler", "auto", "skip", "at most 1.60, ambition 1.25"),
    Contest("filter that rejects", "filter", "auto", "skip", "at most 1.80"),
    Contest("four fetchargs, as text to a file", "fetchargs", "auto", "skip", "at most 3.00"),
    Contest("return probe, two stops", "return", "auto", "skip", "none"),
    Contest("empty Python handler, emulate", "handler", "emulate", "skip", "at most 1.60"),
    Contest("empty Python handler, step", "handler", "step", "step", "none"),
)


@functools.cache
def _target() -> Path:
    return build_target(_HERE / "targets" / "hot.c", "-no-pie", "-fno-pie")


@functools.cache
def _loop() -> Path:
    return build_target(_HERE / "reference_loop.c", "-O2")


def _placements() -> list[Placement]:
    available = cpus()
    placements = [Placement("tracer and tracee on one CPU", available[0], available[0])]
    if len(available) > 1:
        placements.append(Placement("on two CPUs", available[0], available[1]))
    return placements


def _time(command: list[str], hits: int) -> float:
    """Microseconds per hit, by the target's own clock."""
    result = subprocess.run(
        [*command, str(_target()), str(hits)],
        check=True,
        capture_output=True,
        text=True,
        cwd=_HERE.parent,
    )
    counted = int(result.stderr.split("hits ")[1].split()[0])
    if counted != hits + 200:
        raise RuntimeError(f"{command[0]} counted {counted} hits of {hits + 200}")
    return parse_report(result.stdout)["nanoseconds"] / hits / 1000


def _reference(mode: str, place: Placement) -> list[str]:
    known = functions(_target())
    # slot_area is no function to nm -S, having no size: it follows hot() at the next 64 bytes.
    site = known["hot"].address
    slot = (site + known["hot"].size + 63) & ~63
    return [str(_loop()), mode, f"{site:x}", "4", f"{slot:x}", str(place.tracer), str(place.tracee)]


def _ours(contest: Contest, place: Placement) -> list[str]:
    return [
        sys.executable,
        "-m",
        "bench.ours",
        contest.kind,
        contest.mechanism,
        str(place.tracer),
        str(place.tracee),
    ]


def _compare(contest: Contest, place: Placement, hits: int, pairs: int) -> None:
    theirs, ours = [], []
    for number in range(pairs):
        # A B, then B A: a drift of the machine's speed falls on both alike.
        for first in (number % 2 == 0, number % 2 != 0):
            if first:
                theirs.append(_time(_reference(contest.reference, place), hits))
            else:
                ours.append(_time(_ours(contest, place), hits))
    ratio = median_with_interval([b / a for a, b in zip(theirs, ours, strict=True)])
    print(
        f"  {contest.ours:32} {median_with_interval(ours).median:8.2f} µs"
        f"   C loop ({contest.reference}) {median_with_interval(theirs).median:8.2f} µs"
        f"   ratio {ratio}   goal: {contest.goal}",
        flush=True,
    )


def main() -> None:
    print(f"{_PAIRS} pairs of {_HITS:,} hits each; ratio pair by pair: median [95% interval]")
    for place in _placements():
        print(f"{place.name}:")
        for contest in CONTESTS:
            slow = place.tracer != place.tracee or contest.mechanism == "step"
            _compare(contest, place, _HITS // 4 if slow else _HITS, _PAIRS)
        for mode in ("step", "reinsert"):
            cost = median_with_interval(
                [_time(_reference(mode, place), _HITS // 4) for _ in range(5)]
            )
            print(f"  for comparison: C loop ({mode}) {cost.median:.2f} µs")
    print("goals are for one CPU, on a machine that does nothing else")


if __name__ == "__main__":
    main()
