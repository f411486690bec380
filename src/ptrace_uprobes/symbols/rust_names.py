"""Demangled Rust names: the legacy scheme, and v0 (RFC 2603, "Symbol Mangling" in rustc's book).

Printed as `c++filt --no-verbose` does: without hashes, disambiguators and the types of
constants. The names come from files that strangers wrote: depth, work and output are bounded,
and what does not follow the grammar to its end is no Rust name.
"""

from __future__ import annotations

import re
from typing import Final

from ptrace_uprobes.symbols.rust_v0 import demangle_v0

__all__ = ["demangle_rust"]

_LEGACY: Final = re.compile(r"_ZN([A-Za-z0-9_.$:]*)17h([0-9a-f]{16})E(?:\.[A-Za-z0-9_.@$]*)?\Z")
_LONGEST_NAME: Final = 1 << 15
_FEWEST_DIGITS: Final = 5
"""So many different digits make a hash, and no C++ name that happens to look like one."""
_ESCAPES: Final = {
    "C": ",",
    "SP": "@",
    "BP": "*",
    "RF": "&",
    "LT": "<",
    "GT": ">",
    "LP": "(",
    "RP": ")",
}
_PIECE: Final = re.compile(
    r"(?P<plain>[^$.]+)|(?P<path>\.\.)|(?P<dot>\.)"
    r"|\$(?:(?P<name>C|SP|BP|RF|LT|GT|LP|RP)|u(?P<code>[2-7][0-9a-f]))\$"
)


def demangle_rust(name: str) -> str | None:
    """What `name` stands for; None if it is no Rust name."""
    if len(name) > _LONGEST_NAME:
        return None
    if name.startswith("_R"):
        return demangle_v0(name)
    if match := _LEGACY.match(name):
        if len(set(match[2])) >= _FEWEST_DIGITS:
            return _legacy_path(match[1])
    return None


def _legacy_path(text: str) -> str | None:
    """`4core3fmt` is core::fmt: lengths, each with an identifier."""
    parts = []
    at = 0
    while at < len(text):
        digits = at
        while digits < len(text) and text[digits] in "0123456789" and digits - at < 5:
            digits += 1
        if digits == at or (text[at] == "0"):
            return None
        end = digits + int(text[at:digits])
        if end > len(text):
            return None
        parts.append(_legacy_identifier(text[digits:end]))
        at = end
    return "::".join(parts) if parts else None


def _legacy_identifier(text: str) -> str:
    # The compiler puts an underscore before an identifier that would begin with an escape.
    if text.startswith("_$"):
        text = text[1:]
    pieces = []
    at = 0
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:  # no escape that we know: the rest as it is
            pieces.append(text[at:])
            break
        if match["plain"]:
            pieces.append(match["plain"])
        elif match["path"]:
            pieces.append("::")
        elif match["dot"]:
            pieces.append(".")
        elif match["name"]:
            pieces.append(_ESCAPES[match["name"]])
        else:
            pieces.append(chr(int(match["code"], 16)))
        at = match.end()
    return "".join(pieces)
