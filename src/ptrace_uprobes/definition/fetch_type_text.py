"""The types of fetchargs as text: `u32`, `x8[4]`, `b3@5/32`, `string`."""

from __future__ import annotations

import re

from ptrace_uprobes.definition.fetcharg import (
    Comm,
    FetchType,
    ImmediateString,
    Kind,
    Source,
    VectorRegister,
)
from ptrace_uprobes.definition.number_text import parse_number
from ptrace_uprobes.definition.quotation import quoted
from ptrace_uprobes.errors import BadSpec

__all__ = ["default_type", "format_type", "parse_type"]

_LONGEST_ARRAY = 64  # MAX_ARRAY_LEN of kernel/trace/trace_probe.h
_PLAIN = {
    **{
        f"{letter}{bits}": FetchType(kind, bits)
        for letter, kind in (("u", Kind.UNSIGNED), ("s", Kind.SIGNED), ("x", Kind.HEXADECIMAL))
        for bits in (8, 16, 32, 64)
    },
    "f32": FetchType(Kind.FLOAT, 32),
    "f64": FetchType(Kind.FLOAT, 64),
    "char": FetchType(Kind.CHARACTER, 8),
    "string": FetchType(Kind.STRING, 0),
    "ustring": FetchType(Kind.USER_STRING, 0),
}
_BITFIELD = re.compile(r"b([0-9a-fA-FxX]+)(?:@([0-9a-fA-FxX]*)(?:/([0-9a-zA-Z]*))?)?")
_NAMES = "u8-u64, s8-s64, x8-x64, f32, f64, char, string, ustring, bWIDTH@SHIFT/BITS"


def default_type(source: Source) -> FetchType:
    """What a fetcharg without a type has."""
    if isinstance(source, (Comm, ImmediateString)):
        return FetchType(Kind.STRING, 0)
    if isinstance(source, VectorRegister):
        return FetchType(Kind.FLOAT, 64)
    return FetchType(Kind.HEXADECIMAL, 64)


def parse_type(text: str, start: int, end: int) -> FetchType:
    """The type in `text[start:end]`; positions in errors are those of `text`."""
    bracket = text.find("[", start, end)
    name_end = end if bracket < 0 else bracket
    count = None if bracket < 0 else _parse_count(text, bracket, end)
    name = text[start:name_end]
    type_ = _PLAIN.get(name)
    if type_ is None:
        type_ = _parse_special(text, start, name)
    if count is None:
        return type_
    return FetchType(type_.kind, type_.bits, type_.width, type_.shift, count)


def _parse_count(text: str, bracket: int, end: int) -> int:
    close = text.find("]", bracket, end)
    if close < 0:
        raise BadSpec(text, end, "']' is missing here")
    if close + 1 != end:
        raise BadSpec(text, close + 1, "nothing follows an array's ']'")
    count = parse_number(text[bracket + 1 : close], 1, (1 << 32) - 1)
    if count is None:
        raise BadSpec(text, bracket + 1, "an array has a number of elements, from 1")
    if count > _LONGEST_ARRAY:
        raise BadSpec(text, bracket + 1, f"an array has at most {_LONGEST_ARRAY} elements")
    return count


def _parse_special(text: str, start: int, name: str) -> FetchType:
    if name in ("symbol", "symstr"):
        why = f"{name} is for addresses in the kernel; use x64, or --request stack for names"
        raise BadSpec(text, start, why)
    match = _BITFIELD.fullmatch(name)
    if match is None:
        if not name:
            raise BadSpec(text, start, f"a type is missing after ':'; there are {_NAMES}")
        raise BadSpec(text, start, f"no type is called {quoted(name)}; there are {_NAMES}")
    width_text, shift_text, bits_text = match.groups()
    if shift_text is None or bits_text is None:
        raise BadSpec(text, start, "a bitfield is written bWIDTH@SHIFT/BITS, as b3@5/32")
    width = parse_number(width_text, 1, 64)
    shift = parse_number(shift_text, 0, 63)
    bits = parse_number(bits_text, 8, 64)
    if bits not in (8, 16, 32, 64):
        raise BadSpec(text, start + match.start(3), "a bitfield lies in 8, 16, 32 or 64 bits")
    if width is None:
        raise BadSpec(text, start + match.start(1), "a bitfield has a width of 1 to 64 bits")
    if shift is None:
        raise BadSpec(text, start + match.start(2), "a bitfield begins at a bit from 0 to 63")
    if width + shift > bits:
        raise BadSpec(text, start, f"{width} bits from bit {shift} do not fit in {bits}")
    return FetchType(Kind.BITFIELD, bits, width, shift)


def format_type(type_: FetchType) -> str:
    count = "" if type_.count is None else f"[{type_.count}]"
    match type_.kind:
        case Kind.CHARACTER:
            return f"char{count}"
        case Kind.STRING:
            return f"string{count}"
        case Kind.USER_STRING:
            return f"ustring{count}"
        case Kind.BITFIELD:
            return f"b{type_.width}@{type_.shift}/{type_.bits}{count}"
        case kind:
            return f"{kind.value}{type_.bits}{count}"
