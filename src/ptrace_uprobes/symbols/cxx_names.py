"""Demangled C++ names, by the C++ runtime's own `__cxa_demangle` (Itanium C++ ABI, 5.1).

The names come from files that strangers wrote, and a name of 250 characters can stand for
gigabytes: every substitution may repeat what two others stand for. So the length of the answer
is bounded beforehand, from the name alone, and what may be too long keeps its mangled name.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Iterator
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
_REPEATS: Final = re.compile(
    r"(?P<argument>(?:Dp|sp)[ROKVP]*T[0-9A-Z]*_)|(?P<part>[ST][0-9A-Z]*_)|(?P<end>E)"
    r"|(?P<pack>Dp|sp)|(?P<conversion>cv)"
)

_DIGITS: Final = re.compile("[0-9]+")
_LONGEST_LENGTH: Final = 9
"""Digits. More overflow an int, which some versions of the demangler do not notice."""
_SUBSTITUTION: Final = re.compile("S[0-9A-Z]*_")
_PARAMETER: Final = re.compile("T[0-9]*_")
_CALL_OFFSET: Final = re.compile("T(?:hn?[0-9]+_|vn?[0-9]+_n?[0-9]+_)")
_LITERAL: Final = re.compile(
    r"L(?:[PRKVO]*(?:[a-jl-oqstv-z]|Dn|S[0-9A-Z]*_(?!I))|N(?:S[0-9A-Z]*_|St)?(?P<names>[0-9]))"
)
# Here the demangler goes on after something that it could not read, or takes a number that
# nothing ends, or text as it is.
_UNCERTAIN: Final = re.compile("Gr|GR|TC|sr|tl|n[wa]|CI[0-9]")
_OTHER: Final = 1
_LETTER: Final = 2
_UNDERSCORE: Final = 4
"""What was read before a token: none of the two, a letter by itself, an underscore by itself."""


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
    before the last `E`. A pack expansion repeats its pattern for each element, if there is a
    template parameter in it; a conversion operator's parameters may be given after it.
    """
    # The lengths of identifiers count bytes.
    text = name.encode("utf-8", "surrogateescape").decode("latin-1")
    sizes: dict[str, int] = {}
    repeated = at_last_end = parameters = packs = longest_pack = 0
    factor, counted = 1, -1
    for at, only, begins_pack in _token_starts(text):
        if begins_pack and longest_pack == 0:
            longest_pack = len(text) - at
        match = _REPEATS.match(text, at)
        if match is None:
            continue
        part = match[0]
        size = match.end() + repeated
        kind = match.lastgroup
        if kind == "end":
            at_last_end = size
        elif kind == "argument":
            repeated += 8 * at_last_end
            parameters += 1
            counted = match.start() + part.index("T")
        elif kind == "pack":
            packs += 1
        elif kind == "conversion":
            factor = 2
        elif part[0] == "S":
            # What only may be a mention must not stand for the first one.
            repeated += sizes.setdefault(part, size) if only else sizes.get(part, size)
        else:
            if "E" in part:
                at_last_end = size
            if at != counted:
                repeated += at_last_end
                parameters += 1
        if repeated > _LARGEST_EXPANSION:
            return repeated
    if parameters == 0:
        return len(text) + repeated
    if factor > 1:
        factor = 1 + parameters
    return int((len(text) + repeated) * factor * max(1, longest_pack) ** packs)


def _token_starts(text: str) -> Iterator[tuple[int, bool, bool]]:
    """Every position where the demangler may begin to read a part of `text`, in their order.

    Not within identifiers, then. With each: whether it does begin there, however the text before
    is read; and whether an argument pack may begin there. What a digit means depends on what
    is being read, so that this follows all meanings it can have; they meet again soon.
    """
    if not text.startswith("_Z"):
        yield from ((at, False, True) for at in range(len(text)))
        return
    ways = bytearray(len(text) + 1)
    ways[2] = _OTHER
    farthest = 2
    for at in range(2, len(text)):
        way = ways[at]
        if not way:
            continue
        letter = text[at]
        yield at, farthest <= at, letter == "J" or (letter == "I" and way != _OTHER)
        if letter.isdigit():
            nexts = _after_digits(text, at, way)
        elif letter == "_":
            nexts = ((at + 1, _UNDERSCORE),)
        elif letter.isalpha() and letter.isascii():
            nexts = _after_letter(text, at, way)
        else:
            nexts = ()
        for place, how in nexts:
            if place < 0:
                yield from ((other, False, True) for other in range(at + 1, len(text)))
                return
            if place <= len(text):
                ways[place] |= how
                farthest = max(farthest, place)


_Ways = tuple[tuple[int, int], ...]
_ANYWHERE: Final[_Ways] = ((-1, 0),)


def _after_digits(text: str, at: int, way: int) -> _Ways:
    """Where the next token may begin after a digit: behind an identifier, or a number."""
    found = _DIGITS.match(text, at)
    assert found is not None
    end, length = found.end(), int(found[0][:_LONGEST_LENGTH])
    if end - at > _LONGEST_LENGTH:
        return _ANYWHERE
    if length == 0 or end + length > len(text):
        return ((end, _OTHER),)
    nexts = [(end + length, _OTHER)]
    before = text[at - 1] if way & _LETTER else ""
    if way & _UNDERSCORE or before in ("F", "n"):  # a discriminator, DF16b, a negative number
        nexts.append((end, _OTHER))
    elif text[end : end + 1] == "_" and (
        before in ("A", "B", "U", "d", "h", "p", "v")
        or (before == "t" and text[at - 2] == "U")
        or (before == "L" and text[at - 2] in ("T", "f"))
        or (before == "E" and "Ul" in text[:at])
    ):
        nexts.append((end, _OTHER))
        if before == "A" and way == _LETTER and text[at - 2] not in ("T", "G"):
            del nexts[0]  # an array's length
    if before in ("C", "D", "v"):  # a constructor's kind, an operator's operands
        nexts.append((at + 1, _OTHER))
        if before == "D" and way == _LETTER:
            del nexts[0]
    return tuple(nexts)


def _after_letter(text: str, at: int, way: int) -> _Ways:
    """The same after a letter; what takes two letters is read as two."""
    letter, following = text[at], text[at + 1 : at + 2]
    if _UNCERTAIN.match(text, at):
        return _ANYWHERE
    before = text[at - 1] if way & _LETTER else ""
    if letter == "S":
        nexts: _Ways = ()
        found = _SUBSTITUTION.match(text, at)
        if found is not None:
            nexts += ((found.end(), _OTHER),)
        if following.islower():
            nexts += ((at + 2, _OTHER),)
        if before in ("a", "l", "r", "T"):  # aS: operator=; TS: the name of a type
            nexts += ((at + 1, _LETTER),)
        return nexts
    if letter == "T":
        found = _PARAMETER.match(text, at)
        if found is not None:
            return ((found.end(), _OTHER),)
        found = _CALL_OFFSET.match(text, at)
        if found is not None:
            return ((found.end(), _OTHER),)
    elif letter == "L" and not (following.isdigit() or following in ("_", "Z")):
        end = _end_of_literal(text, at)
        if end == 0:
            return _ANYWHERE
        nexts = ((end, _OTHER),) if end > 0 else ()
        if before in ("f", "m", "p", "T"):  # fL, mL, pL: operators
            nexts += ((at + 1, _LETTER),)
        return nexts
    return ((at + 1, _LETTER),)


def _end_of_literal(text: str, at: int) -> int:
    """Behind a literal, `L <type> <text> E`; -1 if it has no end, 0 if that is not certain."""
    found = _LITERAL.match(text, at)
    if found is None:
        return 0
    end = found.end()
    if found["names"] is not None:
        end -= 1
        while (digits := _DIGITS.match(text, end)) is not None:
            if len(digits[0]) > _LONGEST_LENGTH or int(digits[0]) == 0:
                return 0
            end = digits.end() + int(digits[0])
        if text[end : end + 1] != "E":
            return 0
        end += 1
    return text.find("E", end) + 1 or -1


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
