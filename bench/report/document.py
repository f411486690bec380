"""The report: docs/benchmarks.md, or the same of any other run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.interval import Estimate
from bench.report import plots, prose
from bench.report.promises import promises
from bench.report.results import Entry, Results
from bench.report.text import costs, interval, number_of, table, times

__all__ = ["write_report"]

_INSTRUCTIONS = "one hit at: "
_PEERS = "peers: "
_SCALING = "scaling"


class _Pictures:
    """Where they go, and how the text links to them."""

    def __init__(self, folder: Path, link: str) -> None:
        self._folder = folder
        self._link = link
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, title: str, draw: Callable[[Path], None]) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        draw(self._folder / slug)
        return f"![{title}]({self._link}/{slug}.svg)"


def write_report(results: Results, document: Path, pictures: Path) -> None:
    """Write `document` and the pictures that it shows; raises OSError."""
    link = pictures.relative_to(document.parent).as_posix()
    drawn = _Pictures(pictures, link)
    parts = [
        prose.introduction(results),
        _machine(results),
        prose.verdict(results),
        _promises(results),
        _instructions(results, drawn),
        _peers(results, drawn),
        _work(results),
        _anatomy(results),
        _of_kind(results, "not hit", "What the program pays when nothing is hit", prose.NOT_HIT),
        _of_kind(results, "whole job", "Whole jobs", prose.WHOLE_JOBS),
        _scaling(results, drawn),
        _others(results, drawn),
        prose.what_remains(results),
        _absent(results),
    ]
    document.write_text("\n\n".join(part for part in parts if part) + "\n")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _machine(results: Results) -> str:
    known = results.machine
    weak = {
        name: text
        for name, text in known["mitigations"].items()
        if not str(text).startswith("Not affected")
    }
    versions = sorted({str(e.facts["version"]) for e in results.entries if e.facts.get("version")})
    rows = [
        ("processor", f"{known['processor']}, {known['cpus']} CPUs, {known['virtual']}"),
        ("kernel", str(known["kernel"])),
        ("interpreter", str(known["python"])),
        ("governor", str(known["governor"])),
        ("mitigations", "; ".join(f"{name}: {text}" for name, text in weak.items()) or "none"),
        ("load average at the end", str(known["load"])),
        ("measured by", f"{known['user']}, {results.taken[:10]}"),
        ("commit measured", results.commit or "not known"),
        ("tools", "; ".join(versions)),
    ]
    return "## The machine\n\n" + table(("", ""), rows)


def _promises(results: Results) -> str:
    rows = [
        (promise.what, promise.promised, promise.found, promise.verdict)
        for promise in promises(results)
    ]
    if not rows:
        return ""
    header = ("what", "promised", "measured", "")
    return "## The promises\n\n" + table(header, rows)


def _instructions(results: Results, drawn: _Pictures) -> str:
    groups = {
        name.removeprefix(_INSTRUCTIONS): entries
        for name, entries in results.groups().items()
        if name.startswith(_INSTRUCTIONS)
    }
    if not groups:
        return ""
    names: dict[str, None] = {}
    for entries in groups.values():
        names.update(dict.fromkeys(entry.label for entry in entries if entry.label != "no probe"))
    rows = []
    for instruction, entries in groups.items():
        by_label = {entry.label: entry for entry in entries}
        kernel_name = entries[0].facts.get("kernel_name") or ""
        cells = [_cell(by_label.get(name), results, instruction, name) for name in names]
        rows.append((f"`{instruction}`" + (f" ({kernel_name})" if kernel_name else ""), *cells))
    parts = [
        "## One hit, by instruction",
        (
            "Tracer and tracee on one CPU, hits counted and no more. In parentheses the kernel's"
            " own name for a probe there. `-`: not measured, the reason is at the end; the C"
            " loops know `endbr64` alone, for what they cost does not depend on the instruction."
        ),
        table(("instruction", *names), rows, numbers=len(names)),
    ]
    for instruction, entries in groups.items():
        shown = [entry for entry in entries if entry.label != "no probe"]
        if shown and entries[0].facts.get("site") in ("nop5", "load"):
            title = f"One hit at {instruction}, on one CPU"
            parts.append(
                drawn.add(
                    f"hit {entries[0].facts['site']}",
                    title,
                    partial(plots.cost_bars, shown, title),
                )
            )
    return "\n\n".join(parts)


def _cell(entry: Entry | None, results: Results, instruction: str, name: str) -> str:
    if entry is not None:
        return times(entry.median) + ("*" if entry.disturbed else "")
    for absent in results.absent:
        if absent.get("group") == _INSTRUCTIONS + instruction and absent.get("contestant") == name:
            return "refused" if "does not probe" in absent["reason"] else "-"
    return "-"


def _peers(results: Results, drawn: _Pictures) -> str:
    parts = []
    for name, entries in results.groups().items():
        if name.startswith(_PEERS):
            title = name.removeprefix(_PEERS)
            parts.append(f"### {_upper(title)}\n\n{costs(entries, 'tool')}")
            parts.append(
                drawn.add(
                    name,
                    title,
                    partial(plots.cost_bars, entries, title.replace("`", "")),
                )
            )
    if not parts:
        return ""
    head = (
        "## Beside every tool that a user could pick\n\n"
        "All at the same five-byte nop of the same program (uftrace: of one that is built for it),"
        " the calls with their returns at what their headings say; each count checked against"
        " the program's own. Tools without a stop run inside of the program; ltrace and uftrace"
        " always trace the return as well; tracefs also records each hit in a buffer."
    )
    return "\n\n".join((head, *parts))


def _work(results: Results) -> str:
    parts = [
        f"### {_upper(name)}\n\n{costs(entries, 'what is done')}"
        for name, entries in results.groups().items()
        if entries[0].kind in ("work at a hit", "stack")
    ]
    parts.append(_work_at_instructions(results))
    return "\n\n".join(("## What is done at a hit", *filter(None, parts))) if any(parts) else ""


def _work_at_instructions(results: Results) -> str:
    entries = results.of_kind("work at instructions")
    sites = list(dict.fromkeys(str(entry.facts["site"]) for entry in entries))
    works = list(dict.fromkeys(entry.label for entry in entries))
    if not entries:
        return ""
    cells = {(entry.label, entry.facts["site"]): times(entry.median) for entry in entries}
    rows = [(work, *(cells.get((work, site), "-") for site in sites)) for work in works]
    text = table(("what is done", *sites), rows, numbers=len(sites))
    return f"### {_upper(entries[0].group)}\n\nOn one CPU; medians of three rounds.\n\n{text}"


_PRIMITIVES = {
    "system_call": "a system call",
    "switch": "a switch to another process, with a read and a write of a pipe",
    "trap": "an int3 that the program's own signal handler serves, sigreturn included",
}


def _anatomy(results: Results) -> str:
    layers = sorted(results.of_kind("layer"), key=lambda entry: int(entry.facts["layer"]))
    if not layers:
        return ""
    whole = layers[-1].median
    rows = []
    for entry in layers:
        added = float(entry.facts.get("added", entry.median))
        low = times(float(entry.facts.get("added_low", added)))
        high = times(float(entry.facts.get("added_high", added)))
        share = f"{added / whole:.1%}"
        rows.append((entry.facts["adds"], f"{times(added)} [{low}, {high}]", share, entry.label))
    text = "## Where the time of one hit goes\n\n" + prose.anatomy(results)
    text += "\n\n" + table(("layer", "adds", "share", "measured as"), rows)
    primitives = [
        (_PRIMITIVES.get(entry.facts["primitive"], entry.name), times(entry.median))
        for entry in results.of_kind("primitive")
    ]
    if primitives:
        text += "\n\nPieces of the kernel's part, each by itself on the same CPU:\n\n"
        text += table(("", "takes"), primitives, numbers=1)
    return text


def _scaling(results: Results, drawn: _Pictures) -> str:
    entries = results.of_kind(_SCALING)
    if not entries:
        return ""
    by_curve: dict[str, list[Entry]] = {}
    for entry in entries:
        by_curve.setdefault(str(entry.facts["curve"]), []).append(entry)
    parts = ["## How it grows", _growth(results)]
    for curve, points in by_curve.items():
        series: dict[str, list[Entry]] = {}
        for entry in points:
            series.setdefault(str(entry.facts["series"]), []).append(entry)
        first = points[0].facts
        parts.append(f"### {_upper(curve)}")
        parts.append(f"{_upper(str(first['y_name']))}; {_where(points)}.")
        parts.append(_points(series, str(first["x_name"])))
        parts.append(prose.standing_still(points))
        if any(len(one) > 1 for one in series.values()):
            parts.append(
                drawn.add(
                    f"scaling {curve}",
                    curve,
                    partial(
                        plots.curves, series, curve, str(first["x_name"]), str(first["y_name"])
                    ),
                )
            )
    return "\n\n".join(part for part in parts if part)


def _where(entries: Iterable[Entry]) -> str:
    """On which CPUs it was measured."""
    places = {
        f"{entry.facts['placement']} (tracer {entry.facts['cpus'][0]}, tracee"
        f" {entry.facts['cpus'][1]})"
        for entry in entries
        if entry.facts.get("placement") and entry.facts.get("cpus")
    }
    return "on " + ", or ".join(sorted(places)) if places else "not bound to a CPU"


def _growth(results: Results) -> str:
    rows = [
        (str(figure["name"]), interval(_estimate(figure)))
        for figure in results.figures
        if figure["group"] == "growth"
    ]
    if not rows:
        return ""
    text = "Fitted as x^k by least squares on logarithms: k near 0 is flat, near 1 is proportional."
    return f"{text}\n\n" + table(("curve", "k"), rows, numbers=1)


def _estimate(figure: Mapping[str, Any]) -> Estimate:
    return Estimate(figure["value"], figure["low"], figure["high"])


def _points(series: Mapping[str, Iterable[Entry]], x_name: str) -> str:
    xs = sorted({float(e.facts["x"]) for entries in series.values() for e in entries})
    rows = []
    for x in xs:
        cells = []
        for entries in series.values():
            found = next((e for e in entries if float(e.facts["x"]) == x), None)
            mark = "*" if found is not None and found.disturbed else ""
            cells.append("-" if found is None else times(found.median) + mark)
        rows.append((f"{x:,.0f}", *cells))
    return table((x_name, *series), rows, numbers=len(series) + 1)


def _of_kind(results: Results, kind: str, title: str, words: str) -> str:
    parts = [
        _group(name, entries)
        for name, entries in results.groups().items()
        if entries[0].kind == kind
    ]
    return "\n\n".join((f"## {title}", words, *parts)) if parts else ""


def _group(name: str, entries: list[Entry]) -> str:
    rows = [
        (
            entry.label,
            times(entry.median),
            interval(entry.ratio, entry.disturbed),
            "; ".join(
                number_of(entry.facts[what], what)
                for what in ("sites", "hits")
                if isinstance(entry.facts.get(what), int)
            ),
        )
        for entry in entries
    ]
    text = table(("", "takes", "times the first", ""), rows, numbers=3)
    return f"### {_upper(name)}\n\n{_upper(_where(entries))}.\n\n{text}"


_SHOWN = (
    "layer",
    "primitive",
    "scaling",
    "work at a hit",
    "work at instructions",
    "stack",
    "peer",
    "not hit",
    "whole job",
)


def _others(results: Results, drawn: _Pictures) -> str:
    parts = [
        _group(name, entries)
        for name, entries in results.groups().items()
        if entries[0].kind not in _SHOWN and not name.startswith((_INSTRUCTIONS, _PEERS))
    ]
    by_group: dict[str, list[Mapping[str, Any]]] = {}
    for figure in results.figures:
        if figure["group"] != "growth":
            by_group.setdefault(str(figure["group"]), []).append(figure)
    for name, figures in by_group.items():
        parts.append(f"### {_upper(name)}")
        if figures[0].get("kind") == "plan shares":
            parts.append(_shares(figures, drawn))
        rows = [
            (str(figure["name"]), _amount(figure), str(figure.get("goal", "")))
            for figure in figures
            if not figure.get("mechanism")
        ]
        parts.append(table(("", "", "goal"), rows))
    return "\n\n".join(("## Everything else", *parts)) if parts else ""


def _shares(figures: Iterable[Mapping[str, Any]], drawn: _Pictures) -> str:
    parts: dict[str, dict[str, float]] = {}
    for figure in figures:
        if figure.get("mechanism"):
            file = str(figure["name"]).partition(":")[0]
            parts.setdefault(file, {})[str(figure["mechanism"])] = float(figure["value"])
    if not parts:
        return ""
    title = "How functions' first instructions are executed"
    return drawn.add("plan shares", title, partial(plots.shares, parts, title))


def _amount(figure: Mapping[str, Any]) -> str:
    value, unit = float(figure["value"]), str(figure["unit"])
    if unit == "share":
        text = f"{value:.2%}"
    elif unit == "bytes":
        text = f"{value / 1048576:.1f} MiB" if value >= 1048576 else f"{value / 1024:.0f} KiB"
    else:
        text = f"{value:,.0f} {unit}"
    if "low" in figure and unit == "share":
        text += f" [{figure['low']:.2%}, {figure['high']:.2%}]"
    return text


def _absent(results: Results) -> str:
    seen: dict[tuple[str, str], list[str]] = {}
    for absent in results.absent:
        what = absent.get("contestant") or absent.get("name", "")
        seen.setdefault((what, absent["reason"]), []).append(absent.get("group", ""))
    if not seen:
        return ""
    rows = []
    for (what, reason), groups in seen.items():
        places = dict.fromkeys(
            group.removeprefix(_INSTRUCTIONS).removeprefix(_PEERS) for group in groups
        )
        rows.append((what, "; ".join(filter(None, places)), reason))
    return "## Not measured, and why\n\n" + table(("what", "where", "reason"), rows)
