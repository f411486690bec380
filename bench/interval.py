"""Medians of paired ratios with bootstrap intervals (Efron 1979), seeded so that they repeat."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Estimate", "median_with_interval"]

_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and the interval that holds it with 95% confidence."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def median_with_interval(values: Sequence[float]) -> Estimate:
    """The median of `values`, and the percentile bootstrap's 95% interval around it."""
    generator = random.Random(1)
    medians = sorted(
        statistics.median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return Estimate(
        statistics.median(values),
        medians[int(0.025 * _RESAMPLES)],
        medians[int(0.975 * _RESAMPLES) - 1],
    )
