"""The kernel's globs, as regular expressions over bytes."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["glob_matcher"]


def glob_matcher(pattern: bytes) -> Callable[[bytes], object]:
    """A function that tells whether all of a string matches `pattern`.

    As `glob_match` of lib/glob.c: `*`, `?`, `[a-z]`, `[!a-z]`, and a backslash before a
    character that means itself; a `[` that is never closed means itself too.
    """
    segments: list[list[bytes]] = [[]]
    position = 0
    while position < len(pattern):
        character = pattern[position : position + 1]
        position += 1
        if character == b"*":
            segments.append([])
            continue
        if character == b"?":
            piece = b"."
        elif character == b"[" and (found := _character_class(pattern, position)) is not None:
            piece, position = found
        else:
            if character == b"\\" and position < len(pattern):
                character = pattern[position : position + 1]
                position += 1
            piece = re.escape(character)
        segments[-1].append(piece)
    return re.compile(_expression([b"".join(segment) for segment in segments]), re.DOTALL).fullmatch


def _expression(segments: list[bytes]) -> bytes:
    first, *others = segments
    if not others:
        return first
    *middles, last = others
    parts = [first]
    for middle in filter(None, middles):
        # What a lookahead has found is not tried again elsewhere: the leftmost place of each
        # segment is as good as any, and the time stays linear in each.
        parts.append(b"(?=(.*?%b))\\%d" % (middle, len(parts)))
    parts.append(b".*" + last)
    return b"".join(parts)


def _character_class(pattern: bytes, start: int) -> tuple[bytes, int] | None:
    """The class whose `[` stands before `start`, and where the pattern goes on."""
    position = start
    inverted = pattern[position : position + 1] == b"!"
    position += inverted
    members: set[int] = set()
    while True:
        if position >= len(pattern):
            return None
        low = high = pattern[position]
        position += 1
        if pattern[position : position + 1] == b"-" and pattern[
            position + 1 : position + 2
        ] not in (
            b"]",
            b"",
        ):
            high = pattern[position + 1]
            position += 2
        members.update(range(low, high + 1))
        if pattern[position : position + 1] == b"]":
            break
    # A class that has every byte, or none, cannot be written as one.
    if not members:
        return (b"." if inverted else b"(?!)"), position + 1
    written = b"".join(b"\\x%02x" % member for member in sorted(members))
    return b"[%b%b]" % (b"^" if inverted else b"", written), position + 1
