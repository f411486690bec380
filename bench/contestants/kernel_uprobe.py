"""The kernel's own uprobes through tracefs: Documentation/trace/uprobetracer.rst."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.contestants.contestant import Command, Contestant, Counted, NotMeasured
from bench.job import Job, Task, sites_program

__all__ = ["TracefsUprobe", "define", "tracefs"]

_GROUP = f"pu_bench_{os.getpid()}"
_numbers = itertools.count()


def tracefs() -> Path | None:
    """Where it is mounted, if we may define probes there."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "tracefs" and os.access(f"{where}/uprobe_events", os.W_OK):
            return Path(where)
    return None


def define(place: Path, line: str) -> None:
    """Add a line to uprobe_events; raises `NotMeasured` with the kernel's reason.

    Opened without O_TRUNC, which would remove the probes of others (probes_open of
    kernel/trace/trace_uprobe.c).
    """
    descriptor = os.open(place / "uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    except OSError as error:
        raise NotMeasured(f"the kernel refuses it: {error.strerror}") from error
    finally:
        os.close(descriptor)


class TracefsUprobe(Contestant):
    """An event that is enabled, which writes a record into the kernel's ring buffer at each hit.

    The count is the kernel's own (nhit of uprobe_profile), the sum a `hist` trigger's.
    """

    def __init__(self, kind: str = "p") -> None:
        """`p` or `r`, as in uprobe_events."""
        self._kind = kind
        self.name = "kernel uprobe, tracefs" if kind == "p" else "kernel uretprobe, tracefs"
        if kind == "r":
            self.tasks = (Task.COUNT,)
        self._event = ""

    def missing(self) -> str | None:
        if os.geteuid() != 0:
            return "needs root"
        return None if tracefs() is not None else "no tracefs with uprobe_events is mounted"

    def version(self) -> str:
        return f"Linux {platform.release()}"

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        return Command(target)

    @contextmanager
    def prepared(self, job: Job) -> Iterator[None]:
        place = tracefs()
        if place is None:
            raise NotMeasured("no tracefs with uprobe_events is mounted")
        self._event = f"{_GROUP}/hit{next(_numbers)}"
        kind = self._kind if not self._event or self._kind == "p" else "r"
        argument = " value=%di:u64" if job.task is Task.ARGUMENT else ""
        define(place, f"{kind}:{self._event} {sites_program()}:{job.site.offset:#x}{argument}")
        event = place / "events" / self._event
        try:
            if job.task is Task.ARGUMENT:
                (event / "trigger").write_text("hist:keys=common_type:vals=value")
            else:
                (event / "enable").write_text("1")
            yield
        finally:
            if job.task is Task.ARGUMENT:
                with_trigger = (event / "trigger").read_text()
                if "hist" in with_trigger:
                    (event / "trigger").write_text("!hist:keys=common_type:vals=value")
            (event / "enable").write_text("0")
            define(place, f"-:{self._event}")

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        place = tracefs()
        assert place is not None
        name = self._event.partition("/")[2]
        hits = None
        for line in (place / "uprobe_profile").read_text().splitlines():
            row = line.split()
            if row[-2] == name:
                hits = int(row[-1])
        total = None
        if job.task is Task.ARGUMENT:
            text = (place / "events" / self._event / "hist").read_text()
            found = [line for line in text.splitlines() if "value:" in line]
            total = int(found[0].split("value:")[1].split()[0]) if found else None
        return Counted(hits, total)
