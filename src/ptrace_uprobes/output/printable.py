"""What a program says of itself may hold anything; a line of ours is one line."""

from __future__ import annotations

import re

from ptrace_uprobes.errors import printable

__all__ = ["printable", "without_bytes"]

_BYTE = re.compile("[\udc80-\udcff]")


def without_bytes(value: object) -> object:
    """A value of JSON in whose strings the bytes that are no UTF-8 are escapes, as `printable`
    writes them: a lone surrogate is no text to other parsers (RFC 8259, 8.2)."""
    match value:
        case str():
            return _BYTE.sub(lambda match: printable(match.group()), value)
        case dict():
            return {without_bytes(name): without_bytes(inner) for name, inner in value.items()}
        case list() | tuple():
            return [without_bytes(inner) for inner in value]
    return value
