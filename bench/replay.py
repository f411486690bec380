"""pytest-benchmark as the book-keeper of durations that were measured elsewhere.

Its own loop times a function of this process, round after round of one benchmark. Here the target
times itself in processes of its own, and contestants take turns. So each benchmark replays its
durations on a clock that only `play` moves: statistics, tables and JSON are pytest-benchmark's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import Measurement

__all__ = ["CLOCK", "record", "replay"]


class _Clock:
    """Seconds since the first duration was played."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def play(self, durations: Iterator[float]) -> None:
        self._now += next(durations)


CLOCK = _Clock()
"""For `pytest.mark.benchmark(timer=...)`."""


def replay(benchmark: BenchmarkFixture, durations: Sequence[float], **facts: Any) -> None:
    """Book `durations`, seconds, with `facts` as the benchmark's extra_info."""
    benchmark.extra_info.update(facts)
    # From zero, so that as much as possible is left of a duration after adding and subtracting.
    CLOCK._now = 0.0
    play: Any = benchmark.pedantic  # which has no annotations
    play(CLOCK.play, args=(iter(durations),), rounds=len(durations), iterations=1)


def record(benchmark: BenchmarkFixture, result: Measurement, **facts: Any) -> None:
    """Book a contestant's measurement."""
    ratio = result.ratio
    replay(
        benchmark,
        result.seconds,
        contestant=result.contestant,
        version=result.version,
        site=result.site,
        task=result.task,
        placement=result.placement.name,
        cpus=[result.placement.tracer, result.placement.tracee],
        calls=result.calls,
        ratio=ratio.median,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        ratios=result.ratios,
        disturbed=result.disturbed,
        **facts,
    )
