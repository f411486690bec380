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
    """One mode of reference_loop.c. It knows one instruction, endbr64, whatever the job says:
    its cost is that of the stops, and the same for every job."""

    tasks = (Task.COUNT,)

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.name = _MODES[mode]
        self.stops_per_hit = 1.0 if mode == "skip" else 2.0

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
                f"{known['site_endbr']:x}",
                "4",
                f"{known['slot_area']:x}",
                str(place.tracer),
                str(place.tracee),
                program,
                "endbr",
                *rest,
            ]
        )


@functools.cache
def reference() -> CLoop:
    """The unit of every ratio: one stop, nothing done at it."""
    return CLoop("skip")


LOOPS = tuple(CLoop(mode) for mode in _MODES)
