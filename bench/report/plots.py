"""Pictures, as SVG and PNG; told apart by markers and dashes, so that black ink is enough."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullFormatter, NullLocator

from bench.report.results import Entry
from bench.report.text import times

mpl.use("Agg")
mpl.rcParams["text.parse_math"] = False  # a `$` in a name is one

__all__ = ["cost_bars", "curves", "shares"]

_KINDS = (
    ("ptrace_uprobes", "ptrace_uprobes", "o", "black"),
    ("C loop", "plain C loops", "s", "0.6"),
    ("Python loop", "a plain Python loop", "v", "0.6"),
    ("kernel", "the kernel's uprobes", "^", "white"),
    ("", "other tools", "D", "white"),
)
_STYLES = (
    ("o", "-"),
    ("s", "--"),
    ("^", ":"),
    ("D", "-."),
    ("v", (0, (1, 1))),
    ("x", (0, (5, 1))),
)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)


_LONGEST_TITLE = 70
"""Letters in a line that fit a picture of this width."""


def _title(axes: Axes, text: str) -> None:
    """In as many lines as it takes: what juts out of the picture is cut off."""
    axes.set_title(textwrap.fill(text, _LONGEST_TITLE), fontsize=10)


def _kind(label: str) -> tuple[str, str, str]:
    for beginning, name, marker, colour in _KINDS:
        if label.startswith(beginning):
            return name, marker, colour
    raise AssertionError("the empty beginning fits all")


def cost_bars(entries: Sequence[Entry], title: str, path: Path) -> None:
    """What a hit costs by tool, on a logarithmic scale, the cheapest on top. Dots: a bar has no
    length where there is no zero."""
    entries = sorted(entries, key=lambda entry: -entry.median)
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(entries)), layout="constrained")
    axes = figure.add_subplot()
    shown: set[str] = set()
    for position, entry in enumerate(entries):
        name, marker, colour = _kind(entry.label)
        axes.errorbar(
            entry.median,
            position,
            xerr=[[entry.median - entry.low], [entry.high - entry.median]],
            marker=marker,
            markersize=7,
            linestyle="none",
            color="black",
            markerfacecolor=colour,
            linewidth=1,
            capsize=3,
            label=None if name in shown else name,
        )
        shown.add(name)
        axes.annotate(
            times(entry.median),
            (entry.high, position),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(entries)), [entry.label for entry in entries], fontsize=8)
    axes.set_ylim(-0.6, len(entries) - 0.4)
    axes.set_xscale("log")
    axes.set_xlabel("cost of one hit (logarithmic; whiskers: quartiles)")
    low = min(entry.low for entry in entries)
    high = max(entry.high for entry in entries)
    axes.set_xlim(*_widened(low / 1.3, high * 1.3 * (high / low) ** 0.12, 10))
    _durations(axes.xaxis)
    axes.grid(axis="y", linewidth=0.3, linestyle=":")
    _title(axes, title)
    figure.legend(fontsize=8, loc="outside lower center", ncols=len(shown))
    _plain(axes)
    _save(figure, path)


def _widened(low: float, high: float, least: float) -> tuple[float, float]:
    """The same middle, and at least a factor of `least` between the ends."""
    missing = max(1.0, least * low / high) ** 0.5
    return low / missing, high * missing


_DIGITS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
_LEAST_TICKS = 3


def _durations(axis: Axis) -> None:
    """Ticks as `10 µs`, of the coarsest steps that put a few on the axis: none overlap."""
    low, high = axis.get_view_interval()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks: list[float] = []
    for digits in _DIGITS:
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= _LEAST_TICKS:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(EngFormatter(unit="s"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="major", labelsize=8)


_SIDEWAYS = 0.018
"""Between two series at the same x, as a part of the axis: error bars do not hide each other."""


def curves(
    series: Mapping[str, Sequence[Entry]], title: str, x_name: str, y_name: str, path: Path
) -> None:
    """y by x, both logarithmic."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    every = [entry for entries in series.values() for entry in entries]
    ticks = sorted({float(entry.facts["x"]) for entry in every})
    span = ticks[-1] / ticks[0]
    for number, (name, entries) in enumerate(series.items()):
        marker, dashes = _STYLES[number % len(_STYLES)]
        points = sorted(entries, key=lambda entry: float(entry.facts["x"]))
        aside = span ** (_SIDEWAYS * (number - (len(series) - 1) / 2))
        axes.errorbar(
            [float(entry.facts["x"]) * aside for entry in points],
            [entry.median for entry in points],
            yerr=[
                [entry.median - entry.low for entry in points],
                [entry.high - entry.median for entry in points],
            ],
            marker=marker,
            linestyle=dashes,
            color="black",
            markerfacecolor="white",
            linewidth=1,
            capsize=2,
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"{x_name} (logarithmic)")
    axes.set_ylabel(f"{y_name} (logarithmic)")
    low, high = min(entry.low for entry in every), max(entry.high for entry in every)
    # Else a few percent of noise would fill the picture.
    axes.set_ylim(*_widened(low / 1.1, high * 1.1, 2))
    _durations(axes.yaxis)
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    _title(axes, title)
    figure.legend(fontsize=8, loc="outside lower center", ncols=min(2, len(series)))
    _plain(axes)
    _save(figure, path)


_WHOLE = "boost"
"""The plan of nearly all functions: in a picture it would leave no room for the others."""


def shares(parts: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """For each file, in per mille, the functions whose plan is any but `_WHOLE`."""
    names = sorted({name for part in parts.values() for name in part if name != _WHOLE})
    figure = Figure(figsize=(7, 1.6 + 0.4 * len(parts)), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        aside = 0.22 * (number - (len(names) - 1) / 2)
        axes.plot(
            [1000 * part.get(name, 0.0) for part in parts.values()],
            [position - aside for position in range(len(parts))],
            marker=_STYLES[number % len(_STYLES)][0],
            linestyle="none",
            color="black",
            markerfacecolor="white",
            label=name,
            clip_on=False,
        )
    axes.set_yticks(
        range(len(parts)),
        [f"{file} (boost: {1000 * part.get(_WHOLE, 0.0):.1f}‰)" for file, part in parts.items()],
        fontsize=8,
    )
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlim(0, max(1.0, *(1.1 * value for value in axes.get_xlim())))
    axes.set_xlabel("of a thousand functions (‰)")
    _title(axes, f"{title}: all but boost")
    if names:
        figure.legend(fontsize=8, ncols=len(names), loc="outside lower center")
    _plain(axes)
    _save(figure, path)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)
