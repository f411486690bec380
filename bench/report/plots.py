"""Pictures, as SVG and PNG; told apart by hatching, markers and dashes, so that ink is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from bench.report.results import Entry

mpl.use("Agg")

__all__ = ["cost_bars", "curves", "shares"]

_KINDS = (
    ("ptrace_uprobes", "ptrace_uprobes", "////", "0.35"),
    ("C loop", "plain C, the limit of ptrace", "", "0.75"),
    ("Python loop", "plain C, the limit of ptrace", "", "0.75"),
    ("kernel", "the kernel's uprobes", "....", "white"),
    ("", "other tools", "", "white"),
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


def _kind(label: str) -> tuple[str, str, str]:
    for beginning, name, hatch, colour in _KINDS:
        if label.startswith(beginning):
            return name, hatch, colour
    raise AssertionError("the empty beginning fits all")


def cost_bars(entries: Sequence[Entry], title: str, path: Path) -> None:
    """What a hit costs by tool, on a logarithmic scale, the cheapest on top."""
    entries = sorted(entries, key=lambda entry: -entry.median)
    figure = Figure(figsize=(8, 0.9 + 0.3 * len(entries)), layout="constrained")
    axes = figure.add_subplot()
    shown: set[str] = set()
    for position, entry in enumerate(entries):
        name, hatch, colour = _kind(entry.label)
        microseconds = entry.median * 1e6
        axes.barh(
            position,
            microseconds,
            hatch=hatch,
            color=colour,
            edgecolor="black",
            linewidth=0.8,
            label=None if name in shown else name,
            xerr=[[(entry.median - entry.low) * 1e6], [(entry.high - entry.median) * 1e6]],
            error_kw={"linewidth": 0.8, "capsize": 2},
        )
        shown.add(name)
        axes.annotate(
            f"{microseconds:.3g}",
            (max(microseconds, entry.high * 1e6), position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(entries)), [entry.label for entry in entries], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("cost of one hit (µs, logarithmic; bars: quartiles)")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 2.5)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="upper right")  # the shortest bars are on top
    _plain(axes)
    _save(figure, path)


def curves(
    series: Mapping[str, Sequence[Entry]], title: str, x_name: str, y_name: str, path: Path
) -> None:
    """y by x, both logarithmic."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, entries) in enumerate(series.items()):
        marker, dashes = _STYLES[number % len(_STYLES)]
        points = sorted(entries, key=lambda entry: float(entry.facts["x"]))
        axes.errorbar(
            [float(entry.facts["x"]) for entry in points],
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
    axes.set_ylabel(f"{y_name} (seconds, logarithmic)")
    axes.yaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.yaxis.set_minor_formatter(EngFormatter(unit="s"))
    axes.tick_params(axis="y", which="minor", labelsize=7)
    ticks = sorted({float(e.facts["x"]) for entries in series.values() for e in entries})
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    _plain(axes)
    _save(figure, path)


def shares(parts: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """Stacked bars: for each file the share of each plan, 0 to 1."""
    names = sorted({name for part in parts.values() for name in part})
    hatches = ("", "////", "....", "xxxx", "----")
    figure = Figure(figsize=(7, 1.5 + 0.4 * len(parts)), layout="constrained")
    axes = figure.add_subplot()
    for position, part in enumerate(parts.values()):
        left = 0.0
        for number, name in enumerate(names):
            width = 100 * part.get(name, 0.0)
            axes.barh(
                position,
                width,
                left=left,
                color="white",
                edgecolor="black",
                hatch=hatches[number % len(hatches)],
                label=name if position == 0 else None,
            )
            left += width
    axes.set_yticks(range(len(parts)), list(parts), fontsize=8)
    axes.set_xlabel("share of the functions' first instructions (%)")
    axes.legend(
        title=title, fontsize=8, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    _plain(axes)
    _save(figure, path)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)
