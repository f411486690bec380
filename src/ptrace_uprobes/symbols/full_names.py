"""Names as programmers write them, looked for among the names of symbols.

`ns::W::get(int) const` is one function, `ns::W::get` every overload, `ns::twice` every instance of
a template. Go's names hold what other languages' do not, and stand in its tables as they are
written: `main.(*T).Add`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ptrace_uprobes.symbols.demangle import demangle

__all__ = ["fits", "parts_of"]

_IDENTIFIER: Final = re.compile(r"[^\W\d]\w*")
_OPENING: Final = {")": "(", ">": "<"}
_BEHIND: Final = re.compile(r"(?: const| volatile| &&?| \[clone [^]]*\]|\[abi:\w+\])+$")
_ABBREVIATED: Final = frozenset(
    (
        *("std", "allocator", "string", "istream", "ostream", "iostream"),
        *("basic_string", "basic_istream", "basic_ostream", "basic_iostream"),
    )
)
"""Itanium C++ ABI 5.1.10: `St`, `Sa`, `Sb`, `Ss`, `Si`, `So`, `Sd` in mangled names."""


def parts_of(name: str) -> list[bytes]:
    """What stands in the mangled name too: the identifiers of the scopes, and of the function."""
    if "operator" in name or "{" in name or "<" in name[:1]:
        return []
    scopes = _without(_without(_BEHIND.sub("", name), ")"), ">")
    words = _IDENTIFIER.findall(re.sub(r"<.*>|\(.*?\)|\[abi:\w+\]", " ", _without_result(scopes)))
    return [word.encode() for word in words if word not in _ABBREVIATED]


def fits(symbol: str, name: str) -> bool:
    """Whether a user who says `name` means the function that this symbol is of."""
    return symbol == name or name in _ways_to_say(demangle(symbol))


def _ways_to_say(plain: str) -> Iterator[str]:
    bare = _BEHIND.sub("", plain)
    yield from (plain, bare)
    named = _without_result(_without(bare, ")"))
    yield from (_without_result(plain), _without_result(bare), named, _without(named, ">"))


def _without(text: str, closing: str) -> str:
    """Without the brackets, and what is in them, that it ends with."""
    if not text.endswith(closing):
        return text
    depth = 0
    for at in range(len(text) - 1, -1, -1):
        depth += (text[at] == closing) - (text[at] == _OPENING[closing])
        if not depth:
            return text[:at] or text
    return text


def _without_result(text: str) -> str:
    """Without the type of the result, which instances of templates have before the name."""
    depth = begin = 0
    for at, character in enumerate(text):
        if character in "(<":
            depth += 1
        elif character in ")>":
            depth -= 1
        elif character == " " and not depth:
            if text[:at].endswith("operator") or _BEHIND.fullmatch(text, at):
                break
            begin = at + 1
    return text[begin:]
