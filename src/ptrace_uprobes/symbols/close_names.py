"""Which names a misspelt one may have been meant to be."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable
from typing import Final

__all__ = ["close_names"]

_MOST_COMPARED: Final = 2000


def close_names(name: str, names: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Those of `names` that `name` may be a misspelling of, the closest first.

    difflib is too slow for all names of a large program: only those that share most letters
    with the name are compared.
    """
    letters = set(name.lower())

    def distance(other: str) -> int:
        return len(letters.symmetric_difference(other.lower())) + abs(len(other) - len(name))

    slack = 2 + len(name) // 3
    likely = {n for n in names if abs(len(n) - len(name)) <= slack}
    nearest = heapq.nsmallest(_MOST_COMPARED, likely, key=lambda n: (distance(n), n))
    folded: dict[str, str] = {}
    for candidate in nearest:
        folded.setdefault(candidate.lower(), candidate)
    matches = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.6)
    return tuple(folded[match] for match in matches)
