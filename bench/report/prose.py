"""What the numbers say, in words; a sentence whose numbers a run lacks is left out."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.promises import DEBUGGERS, kernels_cheapest, quotient, single_stepped
from bench.report.results import Entry, Results
from bench.report.text import interval, times

__all__ = [
    "NOT_HIT",
    "WHOLE_JOBS",
    "anatomy",
    "introduction",
    "standing_still",
    "verdict",
    "what_remains",
]

NOT_HIT = """Real programs with up to a thousand probes on functions that the run does not reach, or once, beside the
same run without any; the output is the same. What probes cost that are not hit is memory: the pages that
hold traps are the process's own copies."""
WHOLE_JOBS = """`malloc` counted in real programs, from the start of the command to its end: the start of Python and
the planting are in it, which is nearly all of it in a short job. Each count equals the kernel's own."""

_INSTRUCTIONS = "one hit at: "
_PEERS = "peers: the hits counted, one CPU"
_PEERS_ON_TWO = "peers: the hits counted, two CPUs"


def introduction(results: Results) -> str:
    quick = (
        "\n\n**This is the quick run**: of three rounds the interval is no more than their range, which holds"
        " the true median in three cases of four."
        if results.quick
        else ""
    )
    interrupted = (
        "\n\n**This run was interrupted**: what it had measured by then is here, the rest is not."
        if results.interrupted
        else ""
    )
    return f"""# What a hit costs

Written by `python -m bench.report` from the results of `make bench`.{quick}{interrupted}

**How it is measured.** The program under probe times itself: so many calls of one function, by its
own CLOCK_MONOTONIC, after 200 calls that nobody times. A tool's start, its look-up of symbols and its
end are outside. Contestants take turns within each round, each directly after a run of the
reference, and each ratio is of such a pair: so whatever else the machine does falls on both. What is
shown is the median, with the 95% interval of a bootstrap over the rounds; `disturbed` (or `*`) marks an
interval wider than a quarter of its median. Every tool's count is checked against the program's own: a
wrong count is no figure. Tracer and tracee are bound to one CPU, or to two, as it says.

**The reference** ("C loop, one stop") is a tracer in plain C that does at each hit what one writes first:
waitpid, GETREGS, SETREGS, CONT; it never executes the displaced instruction. Ours reads and writes RIP
alone where nobody asks for more. The same loop in C that does so too stands beside it at `endbr64` ("RIP
alone"). Absolute times are this machine's; ratios travel better."""


def _of(results: Results, instruction: str, label: str) -> Entry | None:
    entries = results.groups().get(_INSTRUCTIONS + instruction, [])
    return next((entry for entry in entries if entry.label == label), None)


def verdict(results: Results) -> str:
    """For a reader who has to decide about a kernel design."""
    parts = [*_user_space(results), *_the_kernel(results), *_others(results)]
    return "## What it says\n\n" + "\n\n".join(parts) if parts else ""


def _user_space(results: Results) -> list[str]:
    count = results.find(kind="work at a hit", work="count", placement="one CPU")
    handler = results.find(kind="work at a hit", work="handler", placement="one CPU")
    two = results.find(kind="work at a hit", work="handler", placement="two CPUs")
    if count is None or handler is None:
        return []
    text = (
        f"**What pure user space costs.** At `endbr64` a hit that is counted takes {times(count.median)},"
        f" {interval(count.ratio)} times the C loop; with an empty Python handler"
        f" {times(handler.median)}, {interval(handler.ratio)} times."
    )
    ours = _of(results, "endbr64", "ptrace_uprobes, counted only, boost")
    least = _of(results, "endbr64", "C loop, one stop, RIP alone read and written")
    found = quotient(ours, least) if ours is not None and least is not None else None
    if found is not None:
        text += (
            f" To the shortest loop in C that can do it, the one that touches RIP alone, counting is"
            f" {interval(found)}: that much is the engine, and the rest is the stop."
        )
    if two is not None:
        text += (
            " Where the scheduler puts tracer and tracee matters more than any of that: on two CPUs the"
            f" same hit takes {times(two.median)}, for the program has to be woken from the other."
        )
    return [text]


def _the_kernel(results: Results) -> list[str]:
    parts = []
    nop = kernels_cheapest(results.groups().get(_INSTRUCTIONS + "nop", []))
    fast = kernels_cheapest(results.groups().get(_INSTRUCTIONS + "nopl 0x0(%rax,%rax,1)", []))
    ours = _of(results, "nop", "ptrace_uprobes, counted only, boost")
    if nop is not None and ours is not None:
        text = (
            "**What a kernel design has to beat.** Not ptrace, where the kernel emulates the instruction:"
            f" at a nop its uprobe takes {times(nop.median)} ({nop.label}), and ours {times(ours.median)},"
            f" {ours.median / nop.median:.0f} times as much. No context switch, no second process: what"
            " stops the program cannot come near that."
        )
        if fast is not None:
            text += f" At a five-byte nop, which this kernel turns into a call, it takes {times(fast.median)}."
        parts.append(text)
    stepped = single_stepped(results)
    if stepped:
        listed = "; ".join(
            f"`{instruction}` {times(kernel.median)}, ours {times(mine.median)}"
            for instruction, kernel, mine in stepped
        )
        parts.append(
            "**Where a boosted slot reaches the kernel.** What the kernel neither emulates nor refuses it"
            " executes out of line and single-steps (arch/x86/kernel/uprobes.c): two exceptions, #BP and #DB,"
            f" for each hit. Here: {listed}. Ours has one stop there as everywhere: the slot holds the"
            " instruction and a jump back. Kprobes have done without the step for long in the same way;"
            " uprobes could where their slots are within reach of the text, which the area that they use now"
            " is not, and with answers for signals and for preemption in the slot, as"
            " [stepping_out_of_line.md](stepping_out_of_line.md) has them."
        )
    refused = [
        absent["group"].removeprefix(_INSTRUCTIONS)
        for absent in results.absent
        if absent.get("group", "").startswith(_INSTRUCTIONS)
        and "does not probe" in absent.get("reason", "")
        and absent.get("contestant", "").endswith("tracefs")
    ]
    if refused:
        names = " and ".join(f"`{name}`" for name in refused)
        parts.append(
            f"**Where the kernel has no probe.** It does not probe {names} at all. If the program runs already, enabling the event fails"
            " (ENOTSUPP); if it starts later, as here, the event is accepted and no hit is ever counted."
        )
    deadly = [
        absent["group"].removeprefix(_INSTRUCTIONS)
        for absent in results.absent
        if absent.get("contestant", "") == "kernel uprobe, tracefs"
        and absent.get("group", "").startswith(_INSTRUCTIONS)
        and "SIGSEGV" in absent["reason"]
    ]
    if deadly:
        names = " and ".join(f"`{name}`" for name in deadly)
        parts.append(
            f"With a uprobe of this kernel on {names} the program was ended by SIGSEGV at its first hit,"
            " which is no figure, but is to be known."
        )
    return parts


def _why_so_much(results: Results) -> str:
    """What of it no tool of that kind can avoid, and what is left of it on two CPUs."""
    reinsert = _of(results, "endbr64", "C loop, remove, step, reinsert")
    text = "" if reinsert is None else f" The same in plain C takes {times(reinsert.median)}."
    two = {entry.label: entry for entry in results.groups().get(_PEERS_ON_TWO, [])}
    ours, best = two.get("ptrace_uprobes"), two.get("libdebug, callback")
    found = quotient(best, ours) if ours is not None and best is not None else None
    if best is not None and best.ratio is not None and found is not None:
        text += (
            f" On two CPUs libdebug takes {interval(found)} times what ours does, and"
            f" {interval(best.ratio)} times what the C loop does: there the wake-ups across CPUs are nearly"
            " all of a stop, and ours saves one of the two, for the tracer waits awake for a moment"
            " ([decisions/0010](decisions/0010-awake-for-a-moment.md))."
        )
    return text


def _others(results: Results) -> list[str]:
    entries = results.groups().get(_PEERS, [])
    ours = next((entry for entry in entries if entry.label == "ptrace_uprobes"), None)
    if ours is None:
        return []
    stopping = sorted(
        (
            e
            for e in entries
            if e.label.startswith((*DEBUGGERS, "python-ptrace")) and "fast" not in e.label
        ),
        key=lambda entry: entry.median,
    )
    inside = sorted(
        (e for e in entries if e.label.startswith(("Frida", "uftrace", "gdbserver, fast"))),
        key=lambda entry: entry.median,
    )
    parts = []
    if stopping:
        listed = "; ".join(
            f"{entry.label} {times(entry.median)} ({interval(quotient(entry, ours))} times ours)"
            for entry in stopping
        )
        parts.append(
            f"**Beside other tracers that stop the program.** At the same probe ours takes"
            f" {times(ours.median)}. {listed}. Why: they step over the instruction after taking the trap out,"
            " which is a second stop, and more system calls at each ([comparison.md](comparison.md))."
            + _why_so_much(results)
        )
    if inside:
        listed = "; ".join(f"{entry.label} {times(entry.median)}" for entry in inside)
        parts.append(
            f"**Where ptrace loses.** Tools that put code into the program and do not stop it: {listed}. They"
            " are another kind of tool, with an agent, its threads and its memory inside of the program;"
            " their speed is what an inline probe of ours has to be measured by."
        )
    return parts


def standing_still(points: Sequence[Entry]) -> str:
    """What the figures of that curve do not hold; nothing of any other."""
    slept = max((float(entry.facts.get("sleep_seconds", 0)) for entry in points), default=0.0)
    if not slept:
        return ""
    worst: dict[str, float] = {}
    for entry in points:
        series = str(entry.facts["series"])
        worst[series] = max(worst.get(series, 0.0), float(entry.facts.get("longest", 0)))
    listed = ", ".join(f"{series} {times(seconds)}" for series, seconds in worst.items())
    return (
        f"A thread sleeps {times(slept)} between two looks at its clock and notices only what goes beyond"
        f" that, so it may have stood still up to {times(slept)} longer than told. The longest of all runs:"
        f" {listed}. What attach and detach have beyond neither is the tool's own. One part rises with the"
        " number of threads, each of which is stopped; another does not: one of them maps memory for us,"
        " beside a guardian that starts up. So no one power of that number is fitted."
    )


def anatomy(results: Results) -> str:
    return (
        "At `nop`, by itself: the ratios above are of other runs. Each layer is measured as what it adds to"
        " the one before, in the same rounds; the shares are of the whole. A layer whose interval reaches"
        " below zero is lost in the noise."
    )


def what_remains(results: Results) -> str:
    return """## What remains

- The stop itself: trap, two context switches and the tracer's wait. It goes only with the stop, by
  patching a jump to code that records the hit inside of the program. That is not built yet.
- On two CPUs waking the other side dominates. The tracer's own wake-up is saved where a CPU is to
  spare ([decisions/0010](decisions/0010-awake-for-a-moment.md)), the program's cannot be: `--colocate on` puts
  both sides on one.
- What the kernel's probe costs depends on the instruction under it, by a factor of twenty and more; what
  ours costs hardly does. The table by instruction is the result."""
