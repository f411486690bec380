"""Interleaved rounds: each contestant right after the reference, A B A C A D, then again.

A drift of the machine's speed, and whatever else runs on it, falls on both sides of each ratio.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bench.contestants.contestant import Contestant, NotMeasured
from bench.contestants.plain import reference
from bench.interval import Estimate, median_with_interval
from bench.job import Job, Placement, Site, Task

__all__ = ["Measurement", "Plan", "run_contest"]

Progress = Callable[[str], None]

WIDE = 0.25
"""An interval wider than this part of its median marks a disturbed run."""
_LEAST_CALLS = 100
_MOST_CALLS = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a contest may take."""

    rounds: int
    seconds: float
    """That the target's calls shall take in each run."""


@dataclass(slots=True)
class Measurement:
    """A contestant's runs at one job, or why there are none."""

    contestant: str
    version: str
    site: str
    task: str
    placement: Placement
    calls: int = 0
    seconds: list[float] = field(default_factory=list)
    """Per hit, a round each."""
    ratios: list[float] = field(default_factory=list)
    """To the reference's run right before."""
    not_measured: str | None = None

    @property
    def ratio(self) -> Estimate:
        return median_with_interval(self.ratios)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def disturbed(self) -> bool:
        ratio = self.ratio
        return ratio.high - ratio.low > WIDE * ratio.median


def run_contest(
    contestants: Iterable[Contestant],
    site: Site,
    task: Task,
    placement: Placement,
    plan: Plan,
    progress: Progress,
) -> dict[str, Measurement]:
    """Measurements by the contestants' names. One that fails is out; the others go on."""
    unit = reference()
    running: list[tuple[Contestant, Job, Measurement]] = []
    results: dict[str, Measurement] = {}
    for contestant in contestants:
        progress(f"{contestant.name}: first run")
        first = Job(site, task, contestant.first_calls, placement)
        result = Measurement(contestant.name, "", site.name, task.value, placement)
        results[contestant.name] = result
        try:
            absence = contestant.missing() or contestant.refuses(first)
            if absence is not None:
                raise NotMeasured(absence)
            result.version = contestant.version()
            # Also what warms up: files in the page cache, tools that compile themselves.
            cost = contestant.run(first).seconds_per_hit
        except NotMeasured as reason:
            result.not_measured = str(reason)
            continue
        result.calls = min(_MOST_CALLS, max(_LEAST_CALLS, int(plan.seconds / cost)))
        running.append((contestant, Job(site, task, result.calls, placement), result))
    loop_job = Job(site, Task.COUNT, _loop_calls(unit, site, placement, plan), placement)
    for number in range(plan.rounds):
        for contestant, job, result in list(running):
            progress(f"{contestant.name}: round {number + 1} of {plan.rounds}")
            before = unit.run(loop_job).seconds_per_hit
            try:
                mine = contestant.run(job).seconds_per_hit
            except NotMeasured as reason:
                result.not_measured = f"in round {number + 1}: {reason}"
                running = [entry for entry in running if entry[2] is not result]
                continue
            result.seconds.append(mine)
            result.ratios.append(mine / before)
    return results


def _loop_calls(unit: Contestant, site: Site, placement: Placement, plan: Plan) -> int:
    first = Job(site, Task.COUNT, unit.first_calls, placement)
    cost = unit.run(first).seconds_per_hit
    return min(_MOST_CALLS, max(_LEAST_CALLS, int(plan.seconds / cost)))
