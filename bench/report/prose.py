"""What the numbers say, in words; a sentence whose numbers a run lacks is left out."""

from __future__ import annotations

from bench.report.promises import DEBUGGERS, single_stepped
from bench.report.results import Entry, Results
from bench.report.text import times

__all__ = ["NOT_HIT", "WHOLE_JOBS", "anatomy", "introduction", "verdict", "what_remains"]

NOT_HIT = """Real programs with up to a thousand probes on functions that the run never reaches, beside the same
run without any; the output is the same. What probes cost that are not hit is memory: the pages that
hold traps are the process's own copies."""
WHOLE_JOBS = """`malloc` counted in real programs, from the start of the command to its end: the start of Python and
the planting are in it, which is nearly all of it in a short job. Each count equals the kernel's own."""

_INSTRUCTIONS = "one hit at: "


def introduction(results: Results) -> str:
    quick = (
        "\n\n**This is the quick run**: few rounds and few points; its intervals are wide."
        if results.quick
        else ""
    )
    return f"""# What a hit costs

Written by `python -m bench.report` from the results of `make bench`; no figure in it was typed.{quick}

**How it is measured.** The program under probe times itself: so many calls of one function, by its
own CLOCK_MONOTONIC, after 200 calls that nobody times. A tool's start, its look-up of symbols and its
end are outside. Contestants take turns within each round, each directly after a run of the
reference, and each ratio is of such a pair: so whatever else the machine does falls on both. What is
shown is the median, with the 95 % interval of a bootstrap over the rounds; `disturbed` (or `*`) marks an
interval wider than a quarter of its median. Every tool's count is checked against the program's own: a
wrong count is no figure. Tracer and tracee are bound to one CPU, or to two, as it says.

**The reference** ("C loop, one stop") is a tracer in plain C that does at each hit what
a user of ptrace writes, waitpid, GETREGS, SETREGS, CONT, and never executes the displaced instruction.
Ours reads and writes RIP alone where nobody asks for more, which is why it can come out below 1; the
same loop in C that does so too stands beside it ("RIP alone"). Absolute times are this machine's; ratios
travel better."""


def _of(results: Results, instruction: str, label: str) -> Entry | None:
    entries = results.groups().get(_INSTRUCTIONS + instruction, [])
    return next((entry for entry in entries if entry.label == label), None)


def verdict(results: Results) -> str:
    """For a reader who has to decide about a kernel design."""
    parts: list[str] = []
    count = results.find(kind="work at a hit", work="count", placement="one CPU")
    handler = results.find(kind="work at a hit", work="handler", placement="one CPU")
    two = results.find(kind="work at a hit", work="handler", placement="two CPUs")
    if count and handler and count.ratio and handler.ratio:
        text = (
            f"**What pure user space costs.** A hit that is counted takes {times(count.median)},"
            f" {count.ratio.median:.2f} times the C loop; with an empty Python handler"
            f" {times(handler.median)}, {handler.ratio.median:.2f} times. So the language of the tracer is"
            " not where the time goes: the stop is."
        )
        if two:
            text += (
                f" Where the scheduler puts tracer and tracee matters more: on two CPUs the same hit"
                f" takes {times(two.median)}, for each side has to be woken on the other."
            )
        parts.append(text)
    parts.extend(_the_kernel(results))
    parts.extend(_others(results))
    if not parts:
        return ""
    return "## What it says\n\n" + "\n\n".join(parts)


def _the_kernel(results: Results) -> list[str]:
    parts = []
    stepped = single_stepped(results)
    nop = _of(results, "nop", "kernel uprobe, tracefs")
    ours = _of(results, "nop", "ptrace_uprobes, counted only, boost")
    if nop and ours:
        parts.append(
            f"**What a kernel design has to beat.** Not ptrace: the kernel's own uprobe at an instruction"
            f" that it emulates takes {times(nop.median)}, and ours {times(ours.median)},"
            f" {ours.median / nop.median:.0f} times as much. It has no context switch and no second"
            " process, and nothing that is built on stops can come near it."
        )
    fast = _of(results, "nopl 0x0(%rax,%rax,1)", "kernel uprobe, tracefs")
    if fast and nop:
        parts[-1] += (
            f" At a five-byte nop, which newer kernels turn into a call, it takes {times(fast.median)}."
        )
    if stepped:
        worst = max(stepped, key=lambda one: one[1].median / one[2].median)
        names = ", ".join(f"`{instruction}`" for instruction, _, _ in stepped)
        gain = worst[1].median / worst[2].median
        parts.append(
            f"**Where a boosted slot beats the kernel.** The kernel single-steps what it does not emulate,"
            f" here {names}: two exceptions, which a virtual machine makes dear. Ours executes the"
            f" instruction in a slot that jumps back, with the one stop it has anyway: {times(worst[2].median)}"
            f" instead of {times(worst[1].median)} at `{worst[0]}`, {gain:.1f} times as fast. The lesson is not"
            " that ptrace is quick, but that single-stepping out of line is what the kernel should not do:"
            " a slot with a jump back, which kprobes have had for long, would serve uprobes as well."
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
            f"The kernel does not probe {names} at all: the event is accepted, and no hit is ever counted."
        )
    return parts


def _others(results: Results) -> list[str]:
    entries = results.groups().get("peers: the hits counted, one CPU", [])
    ours = next((entry for entry in entries if entry.label == "ptrace_uprobes"), None)
    if ours is None:
        return []
    stopping = sorted(
        (e for e in entries if e.label.startswith(DEBUGGERS) and "fast" not in e.label),
        key=lambda entry: entry.median,
    )
    inside = sorted(
        (e for e in entries if e.label.startswith(("Frida", "uftrace", "gdbserver, fast"))),
        key=lambda entry: entry.median,
    )
    parts = []
    if stopping:
        listed = "; ".join(
            f"{entry.label} {times(entry.median)} ({entry.median / ours.median:.0f} times ours)"
            for entry in stopping
        )
        parts.append(
            f"**Beside other tracers.** At the same probe ours takes {times(ours.median)}. {listed}. They stop"
            " twice and more at each hit, take the trap out to step over it, and hold all threads"
            " meanwhile, or ask another process."
        )
    if inside:
        listed = "; ".join(f"{entry.label} {times(entry.median)}" for entry in inside)
        parts.append(
            f"**Where ptrace loses.** Tools that put code into the program and do not stop it: {listed}. They"
            " are another kind of tool, with an agent, its threads and its memory inside of the program;"
            " but their speed is what an inline probe of ours has to be measured by."
        )
    return parts


def anatomy(results: Results) -> str:
    layers = sorted(results.of_kind("layer"), key=lambda entry: int(entry.facts["layer"]))
    kernel = next((entry for entry in layers if entry.facts["layer"] == 1), None)
    whole = next((entry for entry in layers if entry.label.endswith("Python handler")), None)
    if kernel is None or whole is None:
        return "Each layer is measured as what it adds to the one before, in the same rounds."
    return (
        "Each layer is measured as what it adds to the one before, in the same rounds. The kernel's own"
        f" part, which no tracer can avoid, is {kernel.median / whole.median:.0%} of a hit with a handler."
    )


def what_remains(results: Results) -> str:
    return """## What remains

- The stop itself: trap, two context switches and the tracer's wait. It goes only with the stop, by
  patching a jump to code that records the hit inside of the program. That is not built yet.
- On two CPUs the wake-ups across them dominate. `--colocate on` puts both sides on one.
- Comparisons at one instruction flatter nobody: what the kernel emulates it does in a tenth of the time
  of what it steps. The table by instruction, not one headline, is the result."""
