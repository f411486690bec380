"""What the tracing process holds, round by round, and whether it grows."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.procfs import process_state

__all__ = ["Leaks", "Sample"]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_OBJECTS_PER_ROUND: Final = 2.0
"""A round that left one engine, probe, thread or process record behind would leave dozens."""
_ENOUGH: Final = 80
"""Rounds to fit a line to."""
_BYTES: Final = 24 << 20
"""Growth over the fitted time that memory's own fragmentation may explain."""


class Sample(NamedTuple):
    """What this process holds between two rounds."""

    descriptors: int
    threads: int
    zombies: int
    objects: int
    rss: int


def _take() -> Sample:
    gc.collect()
    return Sample(
        descriptors=_descriptors(),
        threads=len(os.listdir("/proc/self/task")),
        zombies=sum(process_state(pid) == "Z" for pid in _children()),
        objects=len(gc.get_objects()),
        rss=int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
    )


def _children() -> list[int]:
    """Ours only: members of the fleet have zombies of their own, for a moment."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def _links() -> list[str]:
    links = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    return links


def _descriptors() -> int:
    """How many are open, an ELF file's only if it is open a second time: read files are kept."""
    links = _links()
    return len(links) - len({link for link in links if Path(link).is_file()})


def _slope(values: list[int]) -> float:
    """Per step, by least squares."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = sum((number - middle) ** 2 for number in range(count))
    return sum((n - middle) * (value - mean) for n, value in enumerate(values)) / spread


class Leaks:
    """The samples of a run, and the verdict on them."""

    def __init__(self) -> None:
        self._samples: list[tuple[int, ...]] = []  # which the collector does not track

    def take(self) -> Sample:
        """A sample; with the fleet of the same size each time."""
        for thread in threading.enumerate():
            # An engine that has ended may have one that looks twice a second whether it has.
            if thread.name.startswith("ptrace-uprobes"):
                thread.join(5)
        sample = _take()
        self._samples.append(tuple(sample))
        return sample

    def growth(self) -> tuple[float, float]:
        """Objects and bytes per round, fitted over the later two thirds of the run."""
        later = [Sample(*sample) for sample in self._samples[len(self._samples) // 3 :]]
        if len(later) < 3:
            return 0.0, 0.0
        return _slope([s.objects for s in later]), _slope([s.rss for s in later])

    def verdict(self) -> list[str]:
        """What leaked, as sentences; none if nothing did."""
        found = []
        if not self._samples:
            return []
        first = Sample(*self._samples[min(2, len(self._samples) - 1)])
        last = Sample(*self._samples[-1])
        for name in ("descriptors", "threads", "zombies"):
            before, after = getattr(first, name), getattr(last, name)
            if after > before:
                found.append(f"{name}: {before} at first, {after} at last")
        rounds = len(self._samples) * 2 // 3
        # The first rounds of each kind load what is then kept.
        objects, size = self.growth() if rounds >= _ENOUGH else (0.0, 0.0)
        if objects > _OBJECTS_PER_ROUND:
            found.append(f"objects: {objects:.1f} more each round, {last.objects} at last")
        if size * rounds > _BYTES:
            found.append(f"memory: {size:.0f} bytes more each round, {last.rss} at last")
        if found:
            found.append(f"open at last: {sorted(_links())}")
        return found
