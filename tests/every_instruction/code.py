"""Functions and instruction starts of a stripped file, by readelf and objdump: not by us."""

from __future__ import annotations

import bisect
import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CodeRange", "code_ranges"]

_FDE: Final = re.compile(r" FDE .* pc=([0-9a-f]+)\.\.([0-9a-f]+)")
_LINE: Final = re.compile(r"^\s*([0-9a-f]+):\t(\S+)")
_TEXT: Final = re.compile(r"^\s*\[\s*\d+\] \.text\s+PROGBITS\s+([0-9a-f]+) [0-9a-f]+ ([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class CodeRange:
    """A function, as its unwind table entry delimits it, and where its instructions start."""

    start: int
    end: int
    instructions: tuple[int, ...]


def _lines(*command: str) -> list[str]:
    # readelf ends with status 1 where it only has warnings.
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines()


@functools.cache
def code_ranges(path: Path, largest: int) -> tuple[CodeRange, ...]:
    """The functions in .text of at most `largest` bytes that objdump reads without a `(bad)`.

    Static functions too, which a stripped file has no symbols for, but unwind table entries.
    """
    sections = map(_TEXT.match, _lines("readelf", "-SW", str(path)))
    found = next(match for match in sections if match)
    low, size = int(found[1], 16), int(found[2], 16)
    starts: list[int] = []
    bad: list[int] = []
    for line in _lines("objdump", "-d", "-w", "--no-show-raw-insn", "-j", ".text", str(path)):
        if match := _LINE.match(line):
            address = int(match[1], 16)
            starts.append(address)
            if match[2] in ("(bad)", ".byte"):
                bad.append(address)
    ranges = []
    for match in filter(None, map(_FDE.search, _lines("readelf", "-wF", str(path)))):
        start, end = int(match[1], 16), int(match[2], 16)
        if not (low <= start < end <= low + size and end - start <= largest):
            continue
        here = starts[bisect.bisect_left(starts, start) : bisect.bisect_left(starts, end)]
        # A sweep that came to it inside of an instruction has misread what is before it.
        aligned = bool(here) and here[0] == start
        if aligned and bisect.bisect_left(bad, start) == bisect.bisect_left(bad, end):
            ranges.append(CodeRange(start, end, tuple(here)))
    return tuple(ranges)
