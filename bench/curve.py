"""Points of a curve, measured in interleaved rounds.

A round visits all points, so that a drift of the machine's speed falls on all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from bench.contest import WIDE
from bench.contestants.contestant import NotMeasured
from bench.growth import fit
from bench.interval import Estimate, median_with_interval
from bench.job import Placement
from bench.replay import replay

__all__ = ["Curve", "Leg", "measure"]

_LEAST_ROUNDS = 5
"""Where as many were asked for: the interval of three is no more than their range."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What one run measures: one value, in seconds, for each of its series."""

    series: tuple[str, ...]
    run: Callable[[int], Mapping[str, float]]
    """Of a size; raises `NotMeasured`."""
    placement: Placement
    most: int | None = None
    """The largest size that it is run with."""


@dataclass(slots=True)
class _Point:
    seconds: list[float] = field(default_factory=list)
    not_measured: str | None = None


@dataclass(slots=True)
class Curve:
    """The points of some series over the same sizes."""

    name: str
    x_name: str
    y_name: str
    placements: dict[str, Placement] = field(default_factory=dict)
    points: dict[str, dict[int, _Point]] = field(default_factory=dict)

    def seconds(self, series: str, x: int) -> list[float]:
        return self.points[series][x].seconds

    def ratio(self, series: str, x: int, to_series: str, to_x: int) -> Estimate | None:
        """Round by round."""
        pairs = zip(self.seconds(series, x), self.seconds(to_series, to_x), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs]
        return median_with_interval(ratios) if ratios else None

    def book(
        self,
        benchmark: Any,
        not_measured: Callable[[str], NoReturn],
        series: str,
        x: int,
        **facts: Any,
    ) -> None:
        """The benchmark's entry for one point."""
        point = self.points.get(series, {}).get(x)
        if point is None:
            not_measured(f"not run with {x:,} {self.x_name}")
        if point.not_measured is not None:
            not_measured(point.not_measured)
        estimate = median_with_interval(point.seconds)
        placement = self.placements[series]
        known = {
            "kind": "scaling",
            "curve": self.name,
            "series": series,
            "x": x,
            "x_name": self.x_name,
            "y_name": self.y_name,
            "placement": placement.name,
            "cpus": [placement.tracer, placement.tracee],
            "rounds": len(point.seconds),
            "low": estimate.low,
            "high": estimate.high,
            "disturbed": estimate.high - estimate.low > WIDE * estimate.median,
        }
        replay(benchmark, point.seconds, **{**known, **facts})

    def note(
        self, figure: Callable[..., None], not_measured: Callable[[str], NoReturn], series: str
    ) -> None:
        """The figure for one series: its exponent, and what the last point costs in the first's
        unit."""
        points = self.points.get(series, {})
        measured = {x: point.seconds for x, point in points.items() if not point.not_measured}
        if len(measured) < 2:
            reasons = {point.not_measured for point in points.values()} - {None}
            not_measured(f"no growth without two points; {'; '.join(map(str, reasons))}")
        growth = fit(measured)
        first, last = min(measured), max(measured)
        factor = self.ratio(series, last, series, first)
        assert factor is not None
        figure(
            group="growth",
            name=f"{self.name}, {series}",
            value=growth.exponent,
            unit="exponent",
            low=growth.low,
            high=growth.high,
            curve=self.name,
            series=series,
            x_name=self.x_name,
            y_name=self.y_name,
            placement=self.placements[series].name,
            rounds=min(map(len, measured.values())),
            first=first,
            last=last,
            factor=factor.median,
            factor_low=factor.low,
            factor_high=factor.high,
        )


def measure(
    curve: Curve,
    legs: Iterable[Leg],
    sizes: Sequence[int],
    rounds: int,
    progress: Callable[[str], None],
    budget: float = math.inf,
) -> Curve:
    """Fills `curve`. A point that fails is out, the others go on. After `budget` seconds no round
    is begun, but `_LEAST_ROUNDS` are made in any case."""
    runs = [(leg, x) for x in sizes for leg in legs if leg.most is None or x <= leg.most]
    for leg, x in runs:
        for series in leg.series:
            curve.placements[series] = leg.placement
            curve.points.setdefault(series, {})[x] = _Point()
    begun = time.monotonic()
    for number in range(rounds):
        if number >= _LEAST_ROUNDS and time.monotonic() - begun > budget:
            break
        for leg, x in list(runs):
            progress(f"{curve.name}: {x:,} {curve.x_name}, round {number + 1} of {rounds}")
            try:
                values = leg.run(x)
            except NotMeasured as reason:
                for series in leg.series:
                    said = f"in round {number + 1}: {reason}"
                    curve.points[series][x].not_measured = said
                runs.remove((leg, x))
                continue
            for series in leg.series:
                curve.points[series][x].seconds.append(values[series])
    return curve
