"""The limits: no probe at all, and the plain-C loops that no ptrace tracer can beat."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from tests.support.build import build_target

from bench.contestants.contestant import Command, Contestant, Counted
from bench.elf import symbol_addresses
from bench.job import Job, Task, sites_program

__all__ = ["LOOPS", "CLoop", "NoProbe", "reference"]

_SOURCE = Path(__file__).resolve().parents[1] / "reference_loop.c"
_MODES = {
    "skip": "C loop, one stop",
    "peek": "C loop, one stop, RIP alone read and written",
    "bare": "C loop, one stop, no registers",
    "step": "C loop, step in a slot",
    "reinsert": "C loop, remove, step, reinsert",
}


class NoProbe(Contestant):
    name = "no probe"
    tasks = (Task.COUNT,)
    first_calls = 100_000

    def version(self) -> str:
        return ""

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        return Command(target)

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        return Counted(job.expected_hits)


@functools.cache
def _program() -> Path:
    return build_target(_SOURCE, "-O2")


class CLoop(Contestant):
    """One mode of reference_loop.c. It knows one instruction, endbr64 (a nop if it is `bare`),
    whatever the job says: its cost is that of the stops, and the same for every job."""

    tasks = (Task.COUNT,)

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.name = _MODES[mode]
        self.stops_per_hit = 2.0 if mode in ("step", "reinsert") else 1.0
        self._site = "nop" if mode == "bare" else "endbr"
        self._size = 1 if mode == "bare" else 4

    def version(self) -> str:
        return ""

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        known = symbol_addresses(sites_program())
        place = job.placement
        program, _, *rest = target
        return Command(
            [
                str(_program()),
                self.mode,
                f"{known[f'site_{self._site}']:x}",
                str(self._size),
                f"{known['slot_area']:x}",
                str(place.tracer),
                str(place.tracee),
                program,
                self._site,
                *rest,
            ]
        )


@functools.cache
def reference() -> CLoop:
    """The unit of every ratio: one stop, nothing done at it."""
    return CLoop("skip")


LOOPS = tuple(CLoop(mode) for mode in ("skip", "peek", "step", "reinsert"))
