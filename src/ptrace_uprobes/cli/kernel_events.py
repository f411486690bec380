"""Places of probes as events of the kernel: names that do not collide, or why there is no way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence

from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.definition.emit import (
    LONGEST_LINE,
    NotForTheKernel,
    kernel_fields,
    kernel_filter,
    kernel_line,
)
from ptrace_uprobes.definition.kernel_command import LONGEST_EVENT_NAME
from ptrace_uprobes.engine import SitePlan
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.output.printable import printable

__all__ = ["kernel_lines"]

_GROUP = "ptrace_uprobes"

Name = tuple[str, str]


def kernel_lines(
    plans: Sequence[SitePlan],
    mappings: Sequence[Mapping] = (),
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[str]:
    """A line for each place, once however many processes have it; a filter is a comment, since
    the kernel takes it in another file, and so is a place of a glob that the kernel cannot have.
    Raises what says why the kernel cannot have a probe."""
    definitions = [plan.probe.definition for plan in plans]
    events = _Events({(one.group or _GROUP, one.event) for one in definitions if one.event})
    done: set[tuple[str, str, str, int | None]] = set()
    for plan in plans:
        definition = plan.probe.definition
        key = (definition.text, plan.probe.filter_text, plan.module, plan.file_offset)
        if key in done and plan.file_offset is not None:
            continue
        done.add(key)
        if plan.file_offset is None:
            why = f"{_place(plan)} {_resolves_into(plan, mappings)}, which the kernel cannot probe"
            if not definition.place.is_glob:
                raise NotForTheKernel(definition.text, why)
            warn(why)
            yield f"# {printable(why)}"
        else:
            yield from events.lines(plan, plan.file_offset)


class _Events:
    """The events so far, and what the kernel would say to one more."""

    def __init__(self, given: set[Name]) -> None:
        """`given` are the names that the user chose: no name of ours is one of them."""
        self._taken = given
        self._fields: dict[Name, tuple[object, str]] = {}
        self._semaphores: dict[tuple[str, int], int] = {}
        self._lines: set[str] = set()

    def lines(self, plan: SitePlan, offset: int) -> Iterator[str]:
        definition = plan.definition
        group = definition.group or _GROUP
        event = definition.event or self._unused(group, _event_name(plan))
        line = kernel_line(definition, plan.module, offset, group=group, event=event)
        if line in self._lines and self._same(definition, group, event, plan.probe.filter_text):
            return
        self._check_semaphore(definition, plan.module, offset)
        is_new = (group, event) not in self._fields
        self._same(definition, group, event, plan.probe.filter_text)
        self._lines.add(line)
        yield _short_enough(definition, line)
        if plan.probe.filter_text and is_new:
            expression = shlex.quote(kernel_filter(definition, plan.probe.filter_text))
            comment = f"# echo {expression} > events/{group}/{event}/filter"
            yield _short_enough(definition, comment)

    def _same(self, definition: Definition, group: str, event: str, condition: str) -> bool:
        """True, or the error that the event has been something else."""
        fields = kernel_fields(definition)
        before, filter_before = self._fields.setdefault((group, event), (fields, condition))
        if before != fields:
            why = f"the event {group}/{event} has other fetchargs in another definition"
            raise NotForTheKernel(definition.text, why)
        if filter_before != condition:
            why = f"the event {group}/{event} has another filter in another definition"
            raise NotForTheKernel(definition.text, why)
        return True

    def _check_semaphore(self, definition: Definition, path: str, offset: int) -> None:
        """As `validate_ref_ctr_offset` of kernel/trace/trace_uprobe.c: one for each place."""
        reference = definition.ref_ctr_offset or 0
        if self._semaphores.setdefault((path, offset), reference) != reference:
            why = "another definition has the same place with another semaphore, or with none"
            raise NotForTheKernel(definition.text, why)

    def _unused(self, group: str, name: str) -> str:
        name = name[:LONGEST_EVENT_NAME]
        number = 1
        unused = name
        while (group, unused) in self._taken:
            number += 1
            end = f"_{number}"
            unused = name[: LONGEST_EVENT_NAME - len(end)] + end
        self._taken.add((group, unused))
        return unused


def _short_enough(definition: Definition, line: str) -> str:
    if len(line.encode("utf-8", "surrogateescape")) > LONGEST_LINE:
        shown = definition.text if len(definition.text) <= 60 else f"{definition.text[:57]}..."
        raise NotForTheKernel(shown, f"its lines have at most {LONGEST_LINE} bytes")
    return line


def _event_name(plan: SitePlan) -> str:
    """The place's label as the kernel wants a name: a C identifier."""
    name = re.sub(r"\W+", "_", plan.label, flags=re.ASCII)
    if not re.match("[A-Za-z_]", name):
        name = f"p_{name}"
    return f"{name}__return" if plan.probe.definition.is_return else name


def _place(plan: SitePlan) -> str:
    module = plan.probe.definition.place.module or plan.module.rpartition("/")[2]
    return f"{module}:{plan.label}"


def _resolves_into(plan: SitePlan, mappings: Sequence[Mapping]) -> str:
    """An IFUNC leads from its file into the vDSO."""
    names = [one.path for one in mappings if one.contains(plan.address) and not one.is_file]
    name = names[0] if names and names[0] else "memory of no file"
    return f"is in {name}" if plan.module == name else f"resolves into {name}"
