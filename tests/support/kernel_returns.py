"""What the kernel's own uprobes and uretprobes say of a function's entries and returns.

The `nhit` of uprobe_profile counts a return probe's entries, so the events themselves are
read, from a trace instance of our own (Documentation/trace/uprobetracer.rst).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.elf_tools import file_offset, functions
from tests.support.oracle import require_tracefs

__all__ = ["Seen", "kernel_returns"]

_LINE = re.compile(r": ([er])(\d+): .*?(?:value=(\d+))?$")
_BUFFER_KB = 16384
_numbers = itertools.count()


@dataclass(slots=True)
class Seen:
    """What probes saw of one function."""

    calls: int = 0
    returns: int = 0
    sum: int = 0
    """Of what it returned, modulo 2**64."""


def _define(tracefs: Path, line: str) -> None:
    # Neither truncated, which would remove everybody's probes, nor sought in.
    descriptor = os.open(tracefs / "uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, os.fsencode(line + "\n"))
    finally:
        os.close(descriptor)


@contextmanager
def kernel_returns(path: Path, names: Sequence[str]) -> Iterator[Callable[[], dict[str, Seen]]]:
    """A kernel uprobe and a uretprobe on each function of the program at `path`.

    Yields a function that tells what they have seen so far.
    """
    tracefs = require_tracefs()
    group = f"ptr_{os.getpid()}_{next(_numbers)}"
    instance = tracefs / "instances" / group
    known = functions(path)
    defined: list[str] = []

    def seen() -> dict[str, Seen]:
        found = {name: Seen() for name in names}
        for line in (instance / "trace").read_text().splitlines():
            if match := _LINE.search(line):
                function = found[names[int(match[2])]]
                if match[1] == "e":
                    function.calls += 1
                else:
                    function.returns += 1
                    function.sum = (function.sum + int(match[3])) % 2**64
        return found

    instance.mkdir()
    try:
        (instance / "buffer_size_kb").write_text(str(_BUFFER_KB))
        for number, name in enumerate(names):
            place = f"{path}:{file_offset(path, known[name].address):#x}"
            for line in (f"p:{group}/e{number}", f"r:{group}/r{number}"):
                fetch = " value=$retval:u64" if line.startswith("r") else ""
                _define(tracefs, f"{line} {place}{fetch}")
                defined.append(line[2:])
        enable = instance / "events" / group / "enable"
        enable.write_text("1")
        try:
            yield seen
        finally:
            enable.write_text("0")
    finally:
        for event in defined:
            _define(tracefs, f"-:{event}")
        instance.rmdir()
