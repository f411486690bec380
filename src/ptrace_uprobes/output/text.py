"""Text in the shape of the kernel's trace output (Documentation/trace/ftrace.rst)."""

from __future__ import annotations

from collections.abc import Callable

from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.engine import SitePlan
from ptrace_uprobes.output.printable import printable
from ptrace_uprobes.output.recorded import data_of
from ptrace_uprobes.output.request import NOTHING, Request
from ptrace_uprobes.output.summary import Summary
from ptrace_uprobes.output.text_summary import summary_text
from ptrace_uprobes.output.threads import ThreadFacts
from ptrace_uprobes.probe import Hit

__all__ = ["TextFormat"]

_FAULT = "(fault)"


def _head(comm: str, tid: int, cpu: int) -> str:
    return f"{printable(comm):>16}-{tid:<7d} [{cpu:03d}] "


class TextFormat:
    """COMM-TID [CPU] SECONDS.MICROS: EVENT: (ADDRESS) NAME=VALUE ..."""

    def __init__(self, request: Request = NOTHING) -> None:
        self._request = request
        self._threads = ThreadFacts(_head)

    def hit_formatter(self, definition: Definition) -> Callable[[Hit], str]:
        """EVENT is the event's name in the kernel's notation, else the place's own label, so
        that a glob's hits tell themselves apart."""
        head_of = self._threads.head
        event = definition.event
        is_return = definition.is_return
        after = self._requested if self._request else None

        def format_hit(hit: Hit) -> str:
            # Hot: once per hit, 2.5 µs without the fetchargs' own text.
            head = head_of(hit.pid, hit.tid)
            seconds, nanoseconds = divmod(hit.time_ns, 1_000_000_000)
            if is_return:
                name = event or f"{hit.label}%return"
                where = f"({hit.address:#x} <- {hit.function:#x})"
            else:
                name = event or hit.label
                where = f"({hit.address:#x})"
            fetcher = hit.fetcher
            arguments = fetcher.as_text(hit.values) if fetcher is not None else ""
            if arguments:
                # A string may hold anything: what would break the line is escaped.
                where += " " + (arguments if arguments.isprintable() else printable(arguments))
            if after is not None:
                where += after(hit)
            return f"{head}{seconds}.{nanoseconds // 1000:06d}: {name}: {where}\n"

        return format_hit

    def plan(self, plan: SitePlan) -> str:
        slot = "" if plan.slot is None else f" slot={plan.slot:#x}"
        reason = "" if plan.reason is None else f" ({plan.reason})"
        where = f"{plan.module}:{plan.label}"
        return (
            f"{printable(plan.probe.spec)}: {plan.address:#x} {printable(where)}:"
            f" {plan.code.hex(' ')}: {plan.instruction}: {plan.mechanism}{reason}{slot}"
            f"{_beyond_the_place(plan)}\n"
        )

    def summary(self, summary: Summary) -> str:
        return summary_text(summary)

    def _requested(self, hit: Hit) -> str:
        """What `--request` adds: fields of the line, and the stack's frames, a line each."""
        request = self._request
        parts = []
        if request.regs:
            parts += [f" {name}={value:#x}" for name, value in hit.registers.as_dict().items()]
        if request.data_length is not None:
            data = data_of(hit, request.data_length)
            parts.append(f" data={_FAULT if data is None else data.hex()}")
        if request.stack:
            parts.append(_stack(hit))
        return "".join(parts)


def _stack(hit: Hit) -> str:
    """Each frame as the kernel prints it in a stack trace: ` => symbol+0x1c [module]`."""
    stack = hit.stack()
    lines = []
    for frame in stack.frames:
        name = f"{frame.address:#x}" if frame.symbol is None else printable(frame.symbol)
        module = "" if frame.module is None else f" [{printable(frame.module)}]"
        lines.append(f"\n => {name}{module}")
    if stack.cut is not None:
        lines.append(f"\n => (the stack is cut here: {printable(stack.cut)})")
    return "".join(lines)


def _beyond_the_place(plan: SitePlan) -> str:
    """What the probe does there, for `--explain`."""
    definition = plan.probe.definition
    parts = []
    if definition.is_return:
        parts.append("notes the call; hits at its return")
    if definition.fetchargs:
        names = ", ".join(printable(argument.name) for argument in definition.fetchargs)
        parts.append(f"records {names}")
    if plan.probe.filter_text:
        parts.append(f"if {printable(plan.probe.filter_text)}")
    return "".join(f"; {part}" for part in parts)
