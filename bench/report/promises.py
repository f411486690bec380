"""What the project promises in numbers, held against a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.interval import Estimate, median_with_interval
from bench.report.results import Entry, Results
from bench.report.text import interval, times

__all__ = ["DEBUGGERS", "Promise", "kernels_cheapest", "promises", "quotient", "single_stepped"]

DEBUGGERS = ("gdb", "lldb", "libdebug", "ltrace")
"""Tools that stop the program, as we do."""
_AT_A_HIT = (
    ("count", "a hit that is counted", 1.4),
    ("handler", "a hit with an empty Python handler (the ambition: 1.25)", 1.6),
    ("filter", "a hit that a filter rejects", 1.8),
    ("fetchargs", "a hit with four fetchargs, one a string, as text to a file", 3.0),
)
_INSTRUCTIONS = "one hit at: "
_STEPPED_BY_THE_KERNEL = ("endbr", "ret", "load", "load_rip", "syscall")
"""What arch/x86/kernel/uprobes.c (6.18) neither emulates nor refuses: it emulates nops, pushes of
registers, calls and jumps (branch_setup_xol_ops, push_setup_xol_ops)."""


@dataclass(frozen=True, slots=True)
class Promise:
    what: str
    promised: str
    found: str
    verdict: str


def _verdict(low: float, high: float, limit: float, disturbed: bool) -> str:
    """Of a value that is to be at most `limit`."""
    if high <= limit:
        return "holds"
    if low > limit:
        return "does not hold"
    return "disturbed: no verdict" if disturbed else "the interval crosses it: no verdict"


def _at_most(what: str, limit: float, entry: Entry, unit: str) -> Iterator[Promise]:
    found = entry.ratio
    if found is None:
        return
    verdict = _verdict(found.low, found.high, limit, entry.disturbed)
    shown = interval(found, entry.disturbed)
    yield Promise(what, f"at most {limit:g} {unit}".rstrip(), shown, verdict)


def quotient(above: Entry, below: Entry) -> Estimate | None:
    """How many times dearer one is than the other, round by round: both stand beside the same
    reference in each round."""
    pairs = zip(above.facts.get("ratios", ()), below.facts.get("ratios", ()), strict=False)
    values = [one / other for one, other in pairs if other]
    return median_with_interval(values) if values else None


def promises(results: Results) -> list[Promise]:
    """Those that the run can say something of."""
    return list(_promises(results))


def _promises(results: Results) -> Iterator[Promise]:
    for work, what, limit in _AT_A_HIT:
        entry = results.find(kind="work at a hit", work=work, placement="one CPU")
        if entry is not None:
            yield from _at_most(what, limit, entry, "C loops")
    stack = results.find(kind="stack", contestant="ptrace_uprobes, warm")
    if stack is not None:
        yield from _at_most("hit.stack() of 20 frames, warm", 30, stack, "C loops")
    yield from _beside_debuggers(results)
    yield from _beside_the_kernel(results)
    yield from _of_figures(results)
    for entry in results.of_kind("look-up"):
        if str(entry.facts.get("goal", "")).startswith("under"):
            yield from _at_most(
                "a name in 100,000, by a fresh process", 5, entry, "times nm | grep"
            )


def _of_figures(results: Results) -> Iterator[Promise]:
    for figure in results.figures:
        name, value = str(figure["name"]), float(figure["value"])
        if "promised" in figure and "low" in figure:
            promised = float(figure["promised"])
            low, high = float(figure["low"]), float(figure["high"])
            yield Promise(
                f"a thread that hits nothing: {name}",
                f"at least {promised:.0%}",
                f"{value:.2%} [{low:.2%}, {high:.2%}]",
                _verdict(-high, -low, -promised, False),
            )
        elif name.endswith(": one stop"):
            yield Promise(
                f"functions probed with one stop, {name.partition(':')[0]}",
                "at least 99%",
                f"{value:.2%}",
                "holds" if value >= 0.99 else "does not hold",
            )
        elif (
            figure["group"] == "growth"
            and figure.get("curve") == "cost per hit against sites"
            and figure.get("series") == "one of them is hit"
        ):
            found = Estimate(figure["factor"], figure["factor_low"], figure["factor_high"])
            yield Promise(
                f"a hit with {figure['last']:,} sites costs what it costs with {figure['first']:,}",
                "at most 1.1 times",
                interval(found),
                _verdict(found.low, found.high, 1.1, False),
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
        found = quotient(fastest, ours)
        if found is None:
            continue
        yield Promise(
            f"faster than gdb, lldb, libdebug and ltrace, on {ours.facts['placement']}",
            "at least 5 times the fastest",
            f"{interval(found)}, {fastest.label}",
            _verdict(-found.high, -found.low, -5.0, fastest.disturbed or ours.disturbed),
        )


def kernels_cheapest(entries: list[Entry]) -> Entry | None:
    """Of the kernel's fronts at one instruction."""
    kernel = [e for e in entries if e.label.startswith("kernel uprobe")]
    return min(kernel, key=lambda entry: entry.median, default=None)


def single_stepped(results: Results) -> list[tuple[str, Entry, Entry]]:
    """Instructions that the kernel's uprobe single-steps: the instruction, the cost by its cheapest
    front, and ours."""
    found = []
    for group, entries in results.groups().items():
        if not group.startswith(_INSTRUCTIONS):
            continue
        if entries[0].facts.get("site") not in _STEPPED_BY_THE_KERNEL:
            continue
        kernel = kernels_cheapest(entries)
        ours = next((e for e in entries if e.label.endswith("counted only, boost")), None)
        if kernel is not None and ours is not None:
            found.append((group.removeprefix(_INSTRUCTIONS), kernel, ours))
    return found


def _beside_the_kernel(results: Results) -> Iterator[Promise]:
    for instruction, kernel, ours in single_stepped(results):
        found = quotient(ours, kernel)
        if found is not None:
            yield Promise(
                f"faster than the kernel's uprobe, which single-steps `{instruction}`"
                f" ({kernel.label} {times(kernel.median)}, ours {times(ours.median)})",
                "less than 1 times its cost",
                interval(found),
                _verdict(found.low, found.high, 1.0, kernel.disturbed or ours.disturbed),
            )
