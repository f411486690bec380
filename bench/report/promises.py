"""What the project promises in numbers, held against a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.interval import Estimate
from bench.report.results import Entry, Results
from bench.report.text import interval, times

__all__ = ["DEBUGGERS", "Promise", "promises", "single_stepped"]

DEBUGGERS = ("gdb", "lldb", "libdebug", "ltrace")
"""Tools that stop the program, as we do."""
_AT_A_HIT = (
    ("count", "a hit that is counted", 1.4),
    ("handler", "a hit with an empty Python handler", 1.6),
    ("filter", "a hit that a filter rejects", 1.8),
    ("fetchargs", "a hit with four fetchargs, one a string, as text to a file", 3.0),
)
_INSTRUCTIONS = "one hit at: "
_SINGLE_STEPPED_ABOVE = 4.0
"""Times what the kernel's uprobe costs at a nop, which it never single-steps."""


@dataclass(frozen=True, slots=True)
class Promise:
    what: str
    promised: str
    found: str
    verdict: str


def _at_most(what: str, limit: float, found: Estimate, unit: str) -> Promise:
    if found.high <= limit:
        verdict = "holds"
    elif found.median <= limit:
        verdict = "holds, but for the interval's end"
    else:
        verdict = "does not hold"
    return Promise(what, f"at most {limit:g} {unit}".rstrip(), interval(found), verdict)


def promises(results: Results) -> list[Promise]:
    """Those that the run can say something of."""
    return list(_promises(results))


def _promises(results: Results) -> Iterator[Promise]:
    for work, what, limit in _AT_A_HIT:
        entry = results.find(kind="work at a hit", work=work, placement="one CPU")
        if entry is not None and entry.ratio is not None:
            yield _at_most(what, limit, entry.ratio, "C loops")
    stack = results.find(kind="stack", contestant="ptrace_uprobes, warm")
    if stack is not None and stack.ratio is not None:
        yield _at_most("a stack of 20 frames, warm", 30, stack.ratio, "C loops")
    yield from _beside_debuggers(results)
    yield from _beside_the_kernel(results)
    yield from _flat(results)
    for figure in results.figures:
        if figure["group"] == "bystander" and "unprobed" in str(figure["name"]):
            value = float(figure["value"])
            yield Promise(
                f"a thread that hits nothing, {figure['name']}",
                "at least 99 % of its speed",
                f"{value:.2%} [{figure['low']:.2%}, {figure['high']:.2%}]",
                "holds" if value >= 0.99 else "does not hold",
            )
        if str(figure["name"]).endswith(": one stop"):
            value = float(figure["value"])
            yield Promise(
                f"functions probed with one stop, {str(figure['name']).partition(':')[0]}",
                "at least 99 %",
                f"{value:.2%}",
                "holds" if value >= 0.99 else "does not hold",
            )
    for entry in results.of_kind("look-up"):
        if str(entry.facts.get("goal", "")).startswith("under") and entry.ratio is not None:
            yield _at_most(
                "a name in 100,000, by a fresh process", 5, entry.ratio, "times nm | grep"
            )


def _beside_debuggers(results: Results) -> Iterator[Promise]:
    for group, entries in results.groups().items():
        if not group.startswith("peers: the hits"):
            continue
        ours = next((e for e in entries if e.label == "ptrace_uprobes"), None)
        others = [e for e in entries if e.label.startswith(DEBUGGERS) and "fast" not in e.label]
        if ours is None or not others:
            continue
        fastest = min(others, key=lambda entry: entry.median)
        times_faster = fastest.median / ours.median
        yield Promise(
            f"faster than gdb, lldb, libdebug and ltrace, on {entries[0].facts['placement']}",
            "at least 5 times the fastest",
            f"{times_faster:.1f} times {fastest.label} ({times(fastest.median)})",
            "holds" if times_faster >= 5 else "does not hold",
        )


def single_stepped(results: Results) -> list[tuple[str, Entry, Entry]]:
    """Instructions that the kernel's uprobe single-steps: instruction, the kernel's cost, ours.

    Told by its cost: a step is many times what an emulated instruction takes.
    """
    found = []
    reference = _pair(results, "nop")
    for group in results.groups():
        if not group.startswith(_INSTRUCTIONS):
            continue
        instruction = group.removeprefix(_INSTRUCTIONS)
        pair = _pair(results, instruction)
        if pair is None or reference is None:
            continue
        kernel, ours = pair
        if kernel.median > _SINGLE_STEPPED_ABOVE * reference[0].median:
            found.append((instruction, kernel, ours))
    return found


def _pair(results: Results, instruction: str) -> tuple[Entry, Entry] | None:
    entries = results.groups().get(_INSTRUCTIONS + instruction, [])
    kernel = next((e for e in entries if e.label == "kernel uprobe, tracefs"), None)
    ours = next((e for e in entries if e.label.endswith("counted only, boost")), None)
    return None if kernel is None or ours is None else (kernel, ours)


def _beside_the_kernel(results: Results) -> Iterator[Promise]:
    stepped = single_stepped(results)
    if not stepped:
        return
    faster = [instruction for instruction, kernel, ours in stepped if ours.median < kernel.median]
    shown = "; ".join(
        f"`{instruction}` {times(kernel.median)} to {times(ours.median)}"
        for instruction, kernel, ours in stepped
    )
    yield Promise(
        "faster than the kernel's uprobe where that single-steps (kernel, ours)",
        "always, on a virtual machine",
        shown,
        "holds" if len(faster) == len(stepped) else f"holds for {len(faster)} of {len(stepped)}",
    )


def _flat(results: Results) -> Iterator[Promise]:
    points = {
        float(entry.facts["x"]): entry
        for entry in results.of_kind("scaling")
        if entry.facts["curve"] == "cost per hit against sites"
        and entry.facts["series"] == "one of them is hit"
    }
    if len(points) < 2:
        return
    least, most = min(points), max(points)
    growth = points[most].median / points[least].median
    yield Promise(
        f"a hit with {most:,.0f} sites costs what it costs with {least:,.0f}",
        "within 10 %",
        f"{growth:.2f} times",
        "holds" if growth <= 1.1 else "does not hold",
    )
