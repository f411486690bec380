"""Cases that are worth a run every time: what once was wrong.

A line of fuzz/corpus/found_64.txt or found_32.txt is `SEED BYTES  # what it is`: as a disagreement
is printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuzz.case import Case, make_case
from fuzz.mode import WIDE, Mode

__all__ = ["read_corpus"]

_FOLDER = Path(__file__).with_name("corpus")


def read_corpus(mode: Mode = WIDE) -> Iterator[Case]:
    for line in (_FOLDER / f"found_{mode.bits}.txt").read_text().splitlines():
        words = line.partition("#")[0].split()
        if words:
            yield make_case(int(words[0]), bytes.fromhex(words[1]), mode, exact=True)
