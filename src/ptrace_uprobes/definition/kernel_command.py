"""The head of a line of the kernel's `uprobe_events`: `p:GRP/EVENT PATH:OFFSET(REF)%return`.

As `__trace_uprobe_create` of kernel/trace/trace_uprobe.c reads it. A symbol in OFFSET's
place, as perf takes it, is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptrace_uprobes.definition.number_text import parse_number
from ptrace_uprobes.definition.spec import LARGEST_ADDRESS, Spec, parse_place
from ptrace_uprobes.errors import BadSpec

__all__ = ["LONGEST_EVENT_NAME", "KernelCommand", "parse_command"]

LONGEST_EVENT_NAME = 63
"""MAX_EVENT_NAME_LEN of kernel/trace/trace_probe.h, without the NUL."""

_WORD = re.compile(r"[^ \t\n\v\f\r]+")
_EVENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RETURN = "%return"


@dataclass(frozen=True, slots=True)
class KernelCommand:
    group: str | None
    event: str | None
    place: Spec
    is_return: bool
    ref_ctr_offset: int | None
    end: int
    """Where in the text the fetchargs begin."""


def parse_command(text: str, match: re.Match[str], last: int) -> KernelCommand:
    """`match` holds the letter, its number and `:GRP/EVENT`, and ends where PATH begins;
    the line ends at `last`."""
    letter, number, name = match.groups()
    if number:
        why = "a number after 'p' or 'r' (maxactive) is for probes in the kernel"
        raise BadSpec(text, match.start(2), why)
    group = event = None
    if name is not None:
        group, event = _parse_name(text, match.start(3) + 1, match.end(3))
    word = _WORD.match(text, match.end(), last)
    if word is None:
        raise BadSpec(text, match.end(), "PATH:OFFSET is missing here")
    begin, end = word.span()
    colon = text.rfind(":", begin, end)
    if colon < 0:
        raise BadSpec(text, end, "':OFFSET' is missing after the path")
    if "/" not in text[begin:colon]:
        raise BadSpec(text, begin, "the kernel's notation needs a path with a '/' in it")
    place_end, is_return, reference = _parse_suffixes(text, colon + 1, end)
    place = _parse_place(text, begin, colon, place_end)
    if (is_return or letter == "r") and place.offset:
        plus = text.index("+", colon)
        raise BadSpec(text, plus, "a return probe belongs at a function's first instruction")
    return KernelCommand(group, event, place, is_return or letter == "r", reference, end)


def _parse_name(text: str, start: int, end: int) -> tuple[str | None, str | None]:
    slash = text.find("/", start, end)
    if slash < 0:
        slash = text.find(".", start, end)
    group = None
    if slash >= 0:
        group = _checked(text, start, slash, _GROUP, "group")
        start = slash + 1
        if start == end:
            return group, None
    return group, _checked(text, start, end, _EVENT, "event")


def _checked(text: str, start: int, end: int, pattern: re.Pattern[str], what: str) -> str:
    if start == end:
        raise BadSpec(text, start, f"the {what}'s name is missing here")
    match = pattern.match(text, start, end)
    if match is None:
        raise BadSpec(text, start, f"the {what}'s name begins with a letter or '_'")
    if match.end() != end:
        bad = text[match.end()]
        raise BadSpec(text, match.end(), f"{bad!r} cannot be part of the {what}'s name")
    if end - start > LONGEST_EVENT_NAME:
        raise BadSpec(text, start, f"the {what}'s name has at most {LONGEST_EVENT_NAME} characters")
    return match.group()


def _parse_suffixes(text: str, start: int, end: int) -> tuple[int, bool, int | None]:
    """Where the offset ends, and `%return` and `(REF)`, in that order as the kernel has it."""
    is_return = False
    reference = None
    if (brace := text.find("(", start, end)) >= 0:
        close = text.find(")", brace, end)
        if close < 0:
            raise BadSpec(text, end, "')' is missing after the reference counter's offset")
        if close + 1 != end:
            raise BadSpec(text, close + 1, "nothing follows ')'; %return comes before '('")
        reference = parse_number(text[brace + 1 : close], 0, LARGEST_ADDRESS)
        if reference is None:
            raise BadSpec(text, brace + 1, "a reference counter's offset is a number")
        end = brace
    if (percent := text.find("%", start, end)) >= 0:
        if text[percent:end] != _RETURN:
            raise BadSpec(text, percent, "nothing but %return follows the offset")
        is_return = True
        end = percent
    return end, is_return, reference


def _parse_place(text: str, begin: int, colon: int, end: int) -> Spec:
    if colon + 1 == end:
        raise BadSpec(text, end, "an offset in the file is missing here")
    if text[colon + 1] in "+-":
        raise BadSpec(text, colon + 1, "an offset in the file has no sign")
    if not text[colon + 1].isdecimal():
        return parse_place(text, begin, end)
    offset = parse_number(text[colon + 1 : end], 0, LARGEST_ADDRESS)
    if offset is None:
        raise BadSpec(text, colon + 1, "an offset in the file is a number of at most 64 bits")
    return Spec(text[begin:end], text[begin:colon], None, None, 0, None, offset)
