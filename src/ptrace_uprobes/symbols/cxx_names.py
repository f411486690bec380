"""Demangled C++ names, by the C++ runtime's own `__cxa_demangle` (Itanium C++ ABI, 5.1).

The names come from files that strangers wrote, and a name of 250 characters can stand for
gigabytes: every substitution may repeat what two others stand for. So the length of the answer
is bounded beforehand, from the name alone, and what may be too long keeps its mangled name.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable
from typing import Final

__all__ = ["demangle_cxx", "expansion_bound", "looks_like_cxx"]

LONGEST_ANSWER: Final = 1 << 15
"""The longest name in LLVM, clang and Qt has 25,000 characters."""

_PREFIXES: Final = ("_Z", "_GLOBAL_")
_LONGEST_NAME: Final = 1024
"""Where libiberty, and so c++filt, gives up too (DEMANGLE_RECURSION_LIMIT): deep recursion."""
_LARGEST_EXPANSION: Final = 10_000_000
"""15 ms and 20 MB at the very most, for names that were made for it."""

# A reference to a part of the name before it, an end of something, or what repeats its operand.
# Pieces of identifiers may look like one: the bound only grows.
_REPEATS: Final = re.compile(
    r"(?P<argument>(?:Dp|sp)[ROKVP]*T[0-9A-Z]*_)|(?P<part>[ST][0-9A-Z]*_)|(?P<end>E)"
    r"|(?P<pack>Dp|sp)|(?P<conversion>cv)"
)


def looks_like_cxx(name: str) -> bool:
    return name.startswith(_PREFIXES)


def demangle_cxx(name: str) -> str | None:
    """What `name` stands for; None if it is no C++ name, or one that cannot be had safely."""
    if len(name) > _LONGEST_NAME or "\0" in name or not looks_like_cxx(name):
        return None
    runtime = _runtime()
    if runtime is None or expansion_bound(name) > _LARGEST_EXPANSION:
        return None
    answer = runtime(name.encode("utf-8", "surrogateescape"))
    return answer.decode("utf-8", "surrogateescape") if answer is not None else None


def expansion_bound(name: str) -> int:
    """At least as much as the number of components that the name stands for.

    A substitution stands for something that ended before its first mention, so for at most
    all that the name stood for until there; a template parameter for something that ended
    before the last `E`. A pack expansion repeats its pattern for each element, and a
    conversion operator's parameters may be given after it.
    """
    sizes: dict[str, int] = {}
    repeated = at_last_end = parameters = 0
    factor = 1
    converts = False
    for match in _REPEATS.finditer(name):
        text = match[0]
        size = match.end() + repeated
        kind = match.lastgroup
        if kind == "end":
            at_last_end = size
        elif kind == "argument":
            repeated += 8 * at_last_end
            parameters += 1
        elif kind == "pack":
            factor *= max(1, len(name) - name.find("J"))
        elif kind == "conversion":
            converts = True
        elif text[0] == "S":
            repeated += sizes.setdefault(text, size)
        else:
            if "E" in text:
                at_last_end = size
            repeated += at_last_end
            parameters += 1
        if repeated * factor > _LARGEST_EXPANSION:
            break
    if converts:
        factor *= 1 + parameters
    return (len(name) + repeated) * factor


@functools.cache
def _runtime() -> Callable[[bytes], bytes | None] | None:
    """`__cxa_demangle` as a function; None where there is no C++ runtime."""
    try:
        library = ctypes.CDLL("libstdc++.so.6")
        function = library.__cxa_demangle
        free = ctypes.CDLL(None).free
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    free.argtypes = [ctypes.c_void_p]
    free.restype = None

    def demangle(name: bytes) -> bytes | None:
        answer: int | None = function(name, None, None, None)
        if not answer:
            return None
        try:
            text = ctypes.string_at(answer)
        finally:
            free(answer)
        return text if len(text) <= LONGEST_ANSWER else None

    return demangle
