"""--emit kernel: the probes as lines for the kernel's uprobe_events; the program does not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.cli.probe_list import wanted_probes
from ptrace_uprobes.cli.session import plant, start_engine
from ptrace_uprobes.cli.stop_signals import StopSignals
from ptrace_uprobes.definition.emit import NotForTheKernel, kernel_line
from ptrace_uprobes.engine import SitePlan
from ptrace_uprobes.output.sink import Sink

__all__ = ["emit"]

_GROUP = "ptrace_uprobes"
_LONGEST_NAME = 63
"""MAX_EVENT_NAME_LEN of kernel/trace/trace_probe.h, less its NUL."""


def emit(options: Options, signals: StopSignals) -> int:
    """Print the lines; the result is the exit status."""
    wanted = wanted_probes(options)
    with signals.deferred(), start_engine(options) as engine:
        plant(engine, wanted, lambda definition: None)
        plans = engine.explain()
        not_found = engine.result().not_found
        engine.kill()
    lines = list(kernel_lines(plans))
    with (
        Sink.over(1, "standard output") if options.output is None else Sink.open(options.output)
    ) as sink:
        for line in lines:
            sink.write(f"{line}\n")
    sink.check()
    for error in not_found.values():
        raise error
    return 0


def kernel_lines(plans: list[SitePlan]) -> Iterator[str]:
    """A line for each place, once however many processes have it; a filter is a comment, since
    the kernel takes it in another file. Raises what says why the kernel cannot have a probe."""
    taken: set[str] = set()
    done: set[tuple[str, str, int]] = set()
    for plan in plans:
        definition = plan.probe.definition
        if plan.file_offset is None:
            raise NotForTheKernel(definition.text, f"{plan.module} is no file")
        key = (definition.text, plan.module, plan.file_offset)
        if key in done:
            continue
        done.add(key)
        group = definition.group or _GROUP
        # The same name twice would be one event with two places, if it has the same fields.
        event = definition.event or _unused(_event_name(plan), taken)
        yield kernel_line(definition, plan.module, plan.file_offset, group=group, event=event)
        if plan.probe.filter_text:
            expression = shlex.quote(plan.probe.filter_text)
            yield f"# echo {expression} > events/{group}/{event}/filter"


def _event_name(plan: SitePlan) -> str:
    """The place's label as the kernel wants a name: a C identifier."""
    name = re.sub(r"\W+", "_", plan.label, flags=re.ASCII)
    if not re.match("[A-Za-z_]", name):
        name = f"p_{name}"
    return f"{name}__return" if plan.probe.definition.is_return else name


def _unused(name: str, taken: set[str]) -> str:
    name = name[:_LONGEST_NAME]
    number = 1
    unused = name
    while unused in taken:
        number += 1
        end = f"_{number}"
        unused = name[: _LONGEST_NAME - len(end)] + end
    taken.add(unused)
    return unused
