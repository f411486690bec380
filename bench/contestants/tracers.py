"""Function tracers: ltrace, uftrace."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.build import build_target

from bench.contestants.contestant import Command, Counted
from bench.contestants.program import ProgramContestant
from bench.job import Job, Task

__all__ = ["Ltrace", "Uftrace"]


class Ltrace(ProgramContestant):
    """`ltrace -x FUNCTION`: it always stops at the entry and at the return."""

    name = "ltrace -x"
    program = "ltrace"
    entries_only = True
    stops_per_hit = 4.0

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        # An empty -e: else every call of a library function is traced too.
        words = ["-e", "nothing@nothing", "-x", job.site.function, "-o", str(folder / "trace")]
        return Command(["ltrace", *words, "--", *target])

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        text = (folder / "trace").read_text(errors="replace")
        calls = re.findall(rf"^{job.site.function}\((0x[0-9a-f]+|\d+)", text, re.MULTILINE)
        return Counted(len(calls), sum(int(value, 0) for value in calls))


class Uftrace(ProgramContestant):
    """`uftrace record -P FUNCTION`: patches the function at its start, in the program; a program of
    its own, since what it patches must have been compiled for it, or have room."""

    name = "uftrace -P (its own program)"
    program = "uftrace"
    tasks = (Task.COUNT,)
    entries_only = True
    stops_per_hit = 0.0
    first_calls = 20_000

    def refuses(self, job: Job) -> str | None:
        if job.site.name != "nop5":
            return "patches a five-byte nop at a function's start"
        return super().refuses(job)

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        program = build_target(
            Path(__file__).resolve().parents[1] / "targets" / "patchable.c",
            "-O2",
            "-fpatchable-function-entry=5",
        )
        data = str(folder / "data")
        words = ["--no-pager", "--no-libcall", "--no-event", "-b", "1m", "-P", "hot_patchable"]
        _, _, *rest = target
        return Command(["uftrace", "record", *words, "-d", data, str(program), "patchable", *rest])

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        report = ["uftrace", "report", "--no-pager", "-d", str(folder / "data"), "-f", "call"]
        listing = subprocess.run(report, capture_output=True, text=True, check=False).stdout
        rows = [line.split() for line in listing.splitlines()]
        found = [row[0] for row in rows if len(row) == 2 and row[1] == "hot_patchable"]
        return Counted(int(found[0]) if found else None)
