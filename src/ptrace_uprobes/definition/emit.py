"""Definitions as lines for the kernel's uprobe_events."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.definition.fetcharg import (
    Argument,
    Dereference,
    FetchArg,
    ImmediateString,
    Kind,
    Register,
    Source,
    VectorRegister,
)
from ptrace_uprobes.definition.fetcharg_format import format_fetcharg
from ptrace_uprobes.definition.kernel_command import LONGEST_EVENT_NAME
from ptrace_uprobes.errors import UprobesError

__all__ = ["NotForTheKernel", "kernel_line"]

_ARGUMENTS: Final = ("di", "si", "dx", "cx", "r8", "r9")  # SysV ABI 3.2.3
# The kernel's isspace() is that of Latin-1, asked of each byte: 0xa0, in the UTF-8 of "à", is
# a blank to it. A '#' ends the line, wherever it stands.
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


def _for_kernel(definition: Definition, argument: FetchArg) -> FetchArg:
    if argument.type.kind is Kind.FLOAT:
        raise NotForTheKernel(definition.text, f"{argument.name} is a floating-point number")
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
    if isinstance(source, ImmediateString) and _is_split(source.text):
        raise NotForTheKernel(definition.text, "a string holds a blank or a '#'")
    if isinstance(source, Dereference):
        return replace(source, base=_source(definition, source.base))
    return source


def _is_split(text: str) -> bool:
    return _SPLITS_A_LINE.search(text.encode("utf-8", "surrogateescape")) is not None


def _legal(name: str, also: str) -> str:
    legal = re.sub(rf"[^A-Za-z0-9_{also}]", "_", name)
    if not re.match("[A-Za-z_]", legal):
        legal = f"_{legal}"
    return legal[:LONGEST_EVENT_NAME]
