"""Numbers and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.interval import Estimate
from bench.report.results import Entry

__all__ = ["costs", "interval", "number_of", "table", "times"]

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def times(seconds: float) -> str:
    """A duration with three digits that count and a fitting unit."""
    for size, unit in _UNITS:
        if abs(seconds) >= size or unit == "ns":
            number = seconds / size
            return f"{number:.{2 if abs(number) < 10 else 1 if abs(number) < 100 else 0}f} {unit}"
    raise AssertionError("nanoseconds take all")


def number_of(count: int, things: str) -> str:
    """`things` is their plural, ending in s."""
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def interval(estimate: Estimate | None, disturbed: bool = False) -> str:
    if estimate is None:
        return ""
    digits = 3 if estimate.median < 0.1 else 2 if estimate.median < 10 else 1
    text = f"{estimate.median:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return f"{text} (disturbed)" if disturbed else text


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """The last `numbers` columns are set to the right."""
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def costs(entries: Iterable[Entry], what: str = "") -> str:
    """Contestants, the fastest first, with what one hit costs."""
    rows = [
        (entry.label, times(entry.median), interval(entry.ratio, entry.disturbed))
        for entry in sorted(entries, key=lambda entry: entry.median)
    ]
    return table((what, "a hit", "times the C loop"), rows, numbers=2)
