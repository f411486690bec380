"""Definitions as lines for the kernel's uprobe_events."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from ptrace_uprobes.definition.condition import And, Comparison, Condition, Not, Or
from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.definition.fetcharg import (
    Argument,
    Dereference,
    FetchArg,
    FetchType,
    ImmediateString,
    Kind,
    Operand,
    Register,
    Source,
    Sum,
    VectorRegister,
)
from ptrace_uprobes.definition.fetcharg_format import format_fetcharg
from ptrace_uprobes.definition.kernel_command import LONGEST_EVENT_NAME
from ptrace_uprobes.errors import UprobesError

__all__ = ["LONGEST_LINE", "NotForTheKernel", "kernel_fields", "kernel_filter", "kernel_line"]

_ARGUMENTS: Final = ("di", "si", "dx", "cx", "r8", "r9")  # SysV ABI 3.2.3
# The kernel's isspace() is that of Latin-1, asked of each byte: 0xa0, in the UTF-8 of "à", is
# a blank to it. A '#' ends the line, wherever it stands.
LONGEST_LINE: Final = 4094
"""Bytes: WRITE_BUFSIZE of kernel/trace/trace.c, less the line's end and a NUL."""
_SPLITS_A_LINE: Final = re.compile(rb"[\x00-\x20\x7f#\xa0]")


class NotForTheKernel(UprobesError):
    """A definition that the kernel's uprobes cannot express."""

    def __init__(self, definition: str, why: str) -> None:
        self.definition = definition
        super().__init__(f"the kernel cannot have {definition!r}: {why}")


def kernel_line(
    definition: Definition, path: str, offset: int, *, event: str, group: str = "uprobes"
) -> str:
    """One line of uprobe_events for a place of `definition`, at `offset` in the file `path`.

    `event` and `group` are made legal names. Raises `NotForTheKernel`.
    """
    if _is_split(path):
        raise NotForTheKernel(definition.text, "the path holds a blank or a '#'")
    if "/" not in path:
        raise NotForTheKernel(definition.text, f"{path!r} is no path with a '/' in it")
    kind = "r" if definition.is_return else "p"
    event = definition.event or _legal(event, "")
    words = [f"{kind}:{definition.group or _legal(group, '-')}/{event}"]
    reference = definition.ref_ctr_offset
    words.append(f"{path}:{offset:#x}" + (f"({reference:#x})" if reference is not None else ""))
    words += [format_fetcharg(_for_kernel(definition, one)) for one in definition.fetchargs]
    return " ".join(words)


def kernel_fields(definition: Definition) -> object:
    """What two definitions must have alike to be one event at two places
    (`trace_probe_compare_arg_type` of kernel/trace/trace_probe.c)."""
    return definition.is_return, tuple(
        (argument.name, _stored(argument.type)) for argument in definition.fetchargs
    )


def _stored(type_: FetchType) -> FetchType:
    """A bitfield is stored as the number that holds it (`find_fetch_type`)."""
    if type_.kind is not Kind.BITFIELD:
        return type_
    return FetchType(Kind.UNSIGNED, type_.bits, count=type_.count)


def kernel_filter(definition: Definition, text: str) -> str:
    """The filter, of which the kernel calls some fields otherwise. Raises `NotForTheKernel`."""
    names = {argument.name for argument in definition.fetchargs}
    comparisons = sorted(_comparisons(parse_filter(text)), key=lambda one: one.position)
    for one in reversed(comparisons):
        if isinstance(one.value, str) and "\n" in one.value:
            raise NotForTheKernel(definition.text, "a string in its filter holds a line's end")
        if one.field in names:
            continue
        if one.field == "pid":
            why = "its filters know no process: pid; they have common_pid, the thread"
            raise NotForTheKernel(definition.text, why)
        if one.field == "tid":
            end = one.position + len(one.field)
            text = f"{text[: one.position]}common_pid{text[end:]}"
    return text.replace("\n", " ")


def _comparisons(condition: Condition) -> list[Comparison]:
    found: list[Comparison] = []
    todo = [condition]
    while todo:
        match todo.pop():
            case Comparison() as comparison:
                found.append(comparison)
            case Not(operand):
                todo.append(operand)
            case And(left, right) | Or(left, right):
                todo += (left, right)
    return found


def _for_kernel(definition: Definition, argument: FetchArg) -> FetchArg:
    if argument.type.kind is Kind.FLOAT:
        raise NotForTheKernel(definition.text, f"{argument.name} is a floating-point number")
    if isinstance(argument.source, Operand):
        source = _operand(definition, argument.source)
        # The kernel's type says how much is read, and how it is extended; so does the marker.
        if argument.type.bits > argument.source.bits:
            letter = "s" if argument.source.is_signed else "u"
            raise NotForTheKernel(
                definition.text,
                f"{argument.name} has {argument.source.bits} bits at this marker; "
                f"write {argument.name}:{letter}{argument.source.bits}",
            )
        return replace(argument, source=source)
    return replace(argument, source=_source(definition, argument.source))


def _source(definition: Definition, source: Source) -> Source:
    if isinstance(source, VectorRegister):
        raise NotForTheKernel(definition.text, "it reads no vector registers")
    if isinstance(source, Argument):
        if source.number < len(_ARGUMENTS):
            return Register(_ARGUMENTS[source.number])
        # Above the return address, as the function's first instruction sees it.
        word = source.number - len(_ARGUMENTS) + 1
        raise NotForTheKernel(
            definition.text,
            f"arg{source.number} is on the stack; at a function's entry that is $stack{word}",
        )
    if isinstance(source, Operand):
        if source.bits < 64:
            why = f"an address of {source.bits} bits, which it does not extend"
            raise NotForTheKernel(definition.text, why)
        return _operand(definition, source)
    if isinstance(source, ImmediateString) and _is_split(source.text):
        raise NotForTheKernel(definition.text, "a string holds a blank or a '#'")
    if isinstance(source, Dereference):
        return replace(source, base=_source(definition, source.base))
    return source


def _operand(definition: Definition, operand: Operand) -> Source:
    source = operand.source
    is_sum = isinstance(source, Dereference) and isinstance(source.base, Sum)
    if is_sum or operand.shift:
        why = "an argument of this marker is where no fetcharg of the kernel's reaches"
        raise NotForTheKernel(definition.text, why)
    return source


def _is_split(text: str) -> bool:
    return _SPLITS_A_LINE.search(text.encode("utf-8", "surrogateescape")) is not None


def _legal(name: str, also: str) -> str:
    legal = re.sub(rf"[^A-Za-z0-9_{also}]", "_", name)
    if not re.match("[A-Za-z_]", legal):
        legal = f"_{legal}"
    return legal[:LONGEST_EVENT_NAME]
