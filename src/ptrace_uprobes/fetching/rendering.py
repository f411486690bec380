r"""Values as the kernel prints them, and as JSON has them. HOT PATH: once for each hit recorded.

As trace_probe_print_args of kernel/trace/trace_probe.c: decimal, signed or not, and so for
bitfields; x types in hexadecimal; a character and a string in quotes. Ours alone: a `\` and the
quote itself have a `\` before them, so that what is quoted can be told from what follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from ptrace_uprobes.definition.fetcharg import FetchArg, FetchType, Kind
from ptrace_uprobes.fetching.value import FAULT, Value

__all__ = ["dict_renderer", "json_renderer", "text_renderer"]

Values = tuple[Value, ...]

_CHARACTERS: Final = tuple(bytes([code]).decode("utf-8", "surrogateescape") for code in range(256))
_IN_QUOTES: Final = {0x27: "\\'", 0x5C: "\\\\"}
_IN_DOUBLE_QUOTES: Final = {0x22: '\\"', 0x5C: "\\\\"}


def _format(fetch_type: FetchType) -> str:
    match fetch_type.kind:
        case Kind.HEXADECIMAL:
            return "0x%x"
        case Kind.CHARACTER:
            return "'%s'"
        case Kind.STRING | Kind.USER_STRING:
            return '"%s"'
        case Kind.FLOAT:
            return "%r" if fetch_type.bits == 64 else "%.9g"
    return "%d"


def text_renderer(fetchargs: Sequence[FetchArg]) -> Callable[[Values], str]:
    """A function for the values of `fetchargs`."""
    formats = tuple(_format(argument.type) for argument in fetchargs)
    kinds = tuple(argument.type.kind is Kind.CHARACTER for argument in fetchargs)
    labels = tuple(f"{argument.name}=" for argument in fetchargs)

    def element(value: object, form: str, is_character: bool) -> str:
        if value is FAULT:
            return "(fault)"
        if is_character and isinstance(value, int):
            value = _CHARACTERS[value].translate(_IN_QUOTES)
        elif isinstance(value, str):
            value = value.translate(_IN_DOUBLE_QUOTES)
        return form % (value,)

    def one(label: str, value: Value, form: str, is_character: bool) -> str:
        if isinstance(value, tuple):
            inside = ",".join([element(part, form, is_character) for part in value])
            return f"{label}{{{inside}}}"
        return label + element(value, form, is_character)

    def slow(values: Values) -> str:
        return " ".join(map(one, labels, values, formats, kinds))

    if any(kinds) or any(argument.type.count is not None for argument in fetchargs):
        return slow
    escaped = (argument.name.replace("%", "%%") for argument in fetchargs)
    template = " ".join(map("{}={}".format, escaped, formats))
    quotes = template.count('"')

    def fast(values: Values) -> str:
        if FAULT in values:
            return slow(values)
        text = template % values
        return slow(values) if "\\" in text or text.count('"') != quotes else text

    return fast


def dict_renderer(fetchargs: Sequence[FetchArg]) -> Callable[[Values], dict[str, Value]]:
    """A function for the values of `fetchargs`: by name, characters as strings."""
    names = tuple(argument.name for argument in fetchargs)
    kinds = tuple(argument.type.kind is Kind.CHARACTER for argument in fetchargs)
    if not any(kinds):
        return lambda values: dict(zip(names, values, strict=True))

    def character(value: Value) -> Value:
        if isinstance(value, tuple):
            return tuple([_CHARACTERS[x] if isinstance(x, int) else x for x in value])
        return _CHARACTERS[value] if isinstance(value, int) else value

    return lambda values: {
        name: character(value) if is_character else value
        for name, value, is_character in zip(names, values, kinds, strict=True)
    }


def json_renderer(fetchargs: Sequence[FetchArg]) -> Callable[[Values], dict[str, object]]:
    """A function for the values of `fetchargs`, as the JSON lines have them."""
    names = tuple(argument.name for argument in fetchargs)
    converters = tuple(_to_json(argument.type.kind) for argument in fetchargs)

    def convert(value: Value, converter: Callable[[object], object]) -> object:
        if isinstance(value, tuple):
            return [None if part is FAULT else converter(part) for part in value]
        return None if value is FAULT else converter(value)

    def slow(values: Values) -> dict[str, object]:
        return dict(zip(names, map(convert, values, converters), strict=True))

    plain = (Kind.UNSIGNED, Kind.SIGNED, Kind.BITFIELD, Kind.STRING, Kind.USER_STRING)
    kinds = [argument.type.kind for argument in fetchargs]
    as_hexadecimal = [n for n, kind in zip(names, kinds, strict=True) if kind is Kind.HEXADECIMAL]
    if any(argument.type.count is not None for argument in fetchargs) or any(
        kind not in plain and kind is not Kind.HEXADECIMAL for kind in kinds
    ):
        return slow

    def fast(values: Values) -> dict[str, object]:
        if FAULT in values:
            return slow(values)
        shown: dict[str, Any] = dict(zip(names, values, strict=True))
        for name in as_hexadecimal:
            shown[name] = hex(shown[name])
        return shown

    return fast


def _to_json(kind: Kind) -> Callable[[object], object]:
    converters: dict[Kind, Callable[..., object]] = {
        Kind.HEXADECIMAL: hex,
        Kind.CHARACTER: _CHARACTERS.__getitem__,
        # JSON has no NaN and no infinity.
        Kind.FLOAT: lambda value: value if math.isfinite(value) else repr(value),
    }
    return converters.get(kind, lambda value: value)
