"""Addresses that are in any of some ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

__all__ = ["Ranges"]


class Ranges:
    """Half-open ranges, joined: a file may claim a thousand segments, and each of its symbols is
    looked for in all of them."""

    __slots__ = ("bounds",)

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        bounds: list[int] = []
        for low, high in sorted(ranges):
            if low >= high:
                continue
            if bounds and low <= bounds[-1]:
                bounds[-1] = max(bounds[-1], high)
            else:
                bounds += [low, high]
        self.bounds = bounds
        """Where they begin and end, in turns: `bisect_right` gives an odd place inside of one."""

    def __contains__(self, address: int) -> bool:
        return bisect_right(self.bounds, address) & 1 == 1
