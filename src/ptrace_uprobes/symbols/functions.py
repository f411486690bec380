"""Which function holds an address: an index over all tables of an image."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from ptrace_uprobes.symbols.symbol import FUNCTION_KINDS, rank_of
from ptrace_uprobes.symbols.tables import Entry, SymbolTable

__all__ = ["FunctionIndex"]

_MOST_STEPS: Final = 256
_MOST_COMPARED: Final = 1 << 17
"""Names of symbols at one address; beyond them the first one does."""


class FunctionIndex:
    """Sorted arrays of machine integers: 17 bytes a function, and no names."""

    def __init__(self, tables: Sequence[SymbolTable], is_code: Callable[[int], bool]) -> None:
        self._tables = tables
        self._compared = 0
        best: dict[int, tuple[int, int, int]] = {}  # address: (table, index, size)
        for number, table in enumerate(tables):
            for index, _, info, value, size in table.rows():
                if info & 15 in FUNCTION_KINDS:
                    known = best.get(value)
                    if known is None:
                        if is_code(value):
                            best[value] = (number, index, size)
                    elif self._is_better(known, number, index, size):
                        best[value] = (number, index, size)
        self._starts = array("Q", sorted(best))
        self._sizes = array("Q", (best[start][2] for start in self._starts))
        self._tables_of = array("H", (best[start][0] for start in self._starts))
        self._indices = array("I", (best[start][1] for start in self._starts))

    def _is_better(self, known: tuple[int, int, int], number: int, index: int, size: int) -> bool:
        if (known[2] == 0) != (size == 0):
            return size != 0
        if known[0] != number:
            return False  # the dynamic table, which comes first, has the public names
        self._compared += 1
        if self._compared > _MOST_COMPARED:
            return False
        old, new = self._tables[number].entry(known[1]), self._tables[number].entry(index)
        return new is not None and (old is None or rank_of(new, None) < rank_of(old, None))

    def at(self, address: int) -> tuple[int, Entry] | None:
        """The number of the table, and the innermost function that holds `address`.

        Where no sized one does: the nearest before it, if its size is not known, as that of
        functions written in assembly often is not.
        """
        place = bisect_right(self._starts, address) - 1
        if place < 0:
            return None
        # Functions hardly ever nest, and then few deep.
        for candidate in range(place, max(place - _MOST_STEPS, -1), -1):
            if address - self._starts[candidate] < self._sizes[candidate]:
                return self._entry(candidate)
        return self._entry(place) if self._sizes[place] == 0 else None

    def next_start(self, address: int) -> int | None:
        """Where the first function after `address` begins."""
        place = bisect_right(self._starts, address)
        return self._starts[place] if place < len(self._starts) else None

    def _entry(self, place: int) -> tuple[int, Entry] | None:
        number = self._tables_of[place]
        entry = self._tables[number].entry(self._indices[place])
        return None if entry is None else (number, entry)
