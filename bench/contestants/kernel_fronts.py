"""The kernel's uprobes through the tools that people use them by: bpftrace and perf."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.contestants.contestant import Command, Counted, NotMeasured
from bench.contestants.kernel_uprobe import define, group, tracefs
from bench.contestants.program import ProgramContestant
from bench.job import Job, Task, sites_program

__all__ = ["Bpftrace", "PerfStat", "PerfTrace"]

_numbers = itertools.count()


class Bpftrace(ProgramContestant):
    """A BPF program that counts, in a map."""

    program = "bpftrace"
    needs_root = True
    entries_only = True  # by address it wants a disassembler, which Debian's is built without
    stops_per_hit = 0.0
    first_calls = 2000

    def __init__(self, kind: str = "uprobe") -> None:
        self._kind = kind
        self.name = f"kernel {kind}, bpftrace"
        if kind == "uretprobe":
            self.tasks = (Task.COUNT,)

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        body = "@hits = count();" + (" @sum = sum(arg0);" if job.task is Task.ARGUMENT else "")
        program = f"{self._kind}:{target[0]}:{job.site.address:#x} /pid == cpid/ {{ {body} }}"
        words = ["-o", str(folder / "maps"), "-c", " ".join(target), "-e", program]
        return Command(["bpftrace", *words])

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        text = (folder / "maps").read_text() if (folder / "maps").exists() else ""
        found = {row[0]: row[-1] for row in map(str.split, text.splitlines()) if len(row) > 1}
        hits, total = found.get("@hits:"), found.get("@sum:")
        if hits == "0":
            raise NotMeasured("the kernel does not probe this instruction: it let all hits pass")
        return Counted(int(hits) if hits else None, int(total) if total else None)


class _ByEvent(ProgramContestant):
    """perf, on an event that is defined through tracefs: `perf probe` of this age plants probes
    on addresses in the wrong place (seen with perf 6.1 on kernel 6.18)."""

    program = "perf"
    needs_root = True
    stops_per_hit = 0.0
    first_calls = 2000
    _event = ""

    @contextmanager
    def prepared(self, job: Job) -> Iterator[None]:
        place = tracefs()
        if place is None:
            raise NotMeasured("no tracefs with uprobe_events is mounted")
        self._event = f"{group()}:perf{next(_numbers)}"
        name = self._event.replace(":", "/")
        define(place, f"p:{name} {sites_program()}:{job.site.offset:#x} value=%di:u64")
        try:
            yield
        finally:
            define(place, f"-:{name}")


class PerfStat(_ByEvent):
    name = "kernel uprobe, perf stat"
    tasks = (Task.COUNT,)

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        out = str(folder / "count")
        return Command(["perf", "stat", "-x,", "-e", self._event, "-o", out, "--", *target])

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        rows = [line.split(",") for line in (folder / "count").read_text().splitlines()]
        found = [row[0] for row in rows if len(row) > 2 and row[2] == self._event]
        if found == ["0"]:
            raise NotMeasured("the kernel does not probe this instruction: it let all hits pass")
        return Counted(int(found[0]) if found and found[0].isdigit() else None)


class PerfTrace(_ByEvent):
    """Each hit is printed."""

    name = "kernel uprobe, perf trace"
    tasks = (Task.COUNT,)
    first_calls = 500

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        out = str(folder / "trace")
        return Command(["perf", "trace", "-e", self._event, "-o", out, "--", *target])

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        text = subprocess.run(
            ["grep", "-c", self._event, str(folder / "trace")],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        return Counted(int(text) if text.strip().isdigit() else None)
