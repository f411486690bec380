"""This project, by mechanism and by what is done at a hit."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import ptrace_uprobes
from bench.contestants.contestant import Command, Contestant, Counted, NotMeasured
from bench.job import Job, Task
from ptrace_uprobes.engine import counting

__all__ = ["WORKS", "Ours"]

WORKS = {
    "count": "counted only",
    "handler": "an empty Python handler",
    "registers": "a handler that reads the registers",
    "argument": "a handler that reads the first argument",
    "fetchargs": "four fetchargs, one a string, as text to a file",
    "filter": "a filter that rejects",
    "return": "a return probe, empty handler",
    "stack": "a handler that takes the stack",
}


class Ours(Contestant):
    def __init__(self, work: str = "", mechanism: str = "auto") -> None:
        """`work`: what is done at a hit; else the task says it."""
        self._work = work
        self._mechanism = mechanism
        what = "" if not work else f", {WORKS[work]}"
        how = "" if mechanism == "auto" else f", {mechanism}"
        self.name = f"ptrace_uprobes{what}{how}"
        self.tasks = (Task.COUNT,) if work else (Task.COUNT, Task.ARGUMENT)
        self.stops_per_hit = 2.0 if work == "return" or mechanism == "step" else 1.0

    def version(self) -> str:
        in_c = counting.serve is not counting.serve_in_python
        loop = f"its innermost loop in {'C' if in_c else 'Python'}"
        return f"ptrace_uprobes {ptrace_uprobes.__version__}, {loop}"

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        return Command(
            [
                sys.executable,
                "-m",
                "bench.contestants.our_run",
                self._work or ("count" if job.task is Task.COUNT else "argument"),
                self._mechanism,
                f"{job.site.address:#x}",
                str(job.placement.tracer),
                *target,
            ]
        )

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        counted = super().read_count(job, printed, folder)
        used = re.search(r"^mechanisms (\w+)$", printed, re.MULTILINE)
        if used is not None and self._mechanism not in ("auto", used[1]):
            raise NotMeasured(f"this instruction has no {self._mechanism}: it is {used[1]}")
        return counted
