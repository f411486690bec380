"""Cases that are worth a run every time: what once was wrong.

A line of a file in fuzz/corpus/ is `SEED BYTES  # what it is`: as a disagreement is printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuzz.case import Case, make_case

__all__ = ["read_corpus"]

_FOLDER = Path(__file__).with_name("corpus")


def read_corpus() -> Iterator[Case]:
    for path in sorted(_FOLDER.glob("*.txt")):
        for line in path.read_text().splitlines():
            words = line.partition("#")[0].split()
            if words:
                yield make_case(int(words[0]), bytes.fromhex(words[1]), exact=True)
