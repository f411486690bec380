"""How a cost grows with a size: y ~ x^k, fitted."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Growth", "fit"]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Growth:
    """The k of y ~ x^k and its 95% interval. 0 is flat, 1 is in proportion."""

    exponent: float
    low: float
    high: float


def fit(samples: Mapping[int, Sequence[float]]) -> Growth:
    """Least squares on the logs of each point's median; raises ValueError for fewer than two.

    The interval is the percentile bootstrap's over the rounds of each point (Efron 1979): it holds
    what the rounds scatter, not whether a power is the right law.
    """
    sizes = [math.log(x) for x in samples]
    generator = random.Random(1)

    def slope(choose: Callable[[Sequence[float]], Sequence[float]]) -> float:
        costs = [math.log(statistics.median(choose(values))) for values in samples.values()]
        return statistics.linear_regression(sizes, costs).slope

    slopes = sorted(
        slope(lambda values: generator.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return Growth(
        slope(lambda values: values),
        slopes[int(0.025 * _RESAMPLES)],
        slopes[int(0.975 * _RESAMPLES) - 1],
    )
