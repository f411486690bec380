"""Two runs side by side: do their ratios agree within their intervals?"""

from __future__ import annotations

from dataclasses import dataclass

from bench.interval import Estimate
from bench.report.results import Entry, Results
from bench.report.text import interval, table

__all__ = ["comparison"]


@dataclass(frozen=True, slots=True)
class _Pair:
    entry: Entry
    first: Estimate
    second: Estimate

    @property
    def agree(self) -> bool:
        return self.first.low <= self.second.high and self.second.low <= self.first.high


def comparison(first: Results, second: Results) -> str:
    """What both have measured as a ratio; the pairs whose intervals do not meet are listed."""
    known = {(entry.group, entry.name): entry for entry in second.entries}
    pairs = []
    for entry in first.entries:
        other = known.get((entry.group, entry.name))
        if other is None or entry.ratio is None or other.ratio is None:
            continue
        pairs.append(_Pair(entry, entry.ratio, other.ratio))
    apart = [pair for pair in pairs if not pair.agree]
    text = (
        f"{len(pairs)} ratios in both runs; the intervals of {len(pairs) - len(apart)} of them meet"
    )
    if apart:
        rows = [
            (
                f"{pair.entry.group}: {pair.entry.label}",
                interval(pair.first, pair.entry.disturbed),
                interval(pair.second),
            )
            for pair in apart
        ]
        text += "\n\n" + table(("the others", "first", "second"), rows, numbers=2)
    return text
