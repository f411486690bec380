"""The kernel's own uprobes through tracefs: Documentation/trace/uprobetracer.rst."""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.contestants.contestant import Command, Contestant, Counted, NotMeasured
from bench.job import Job, Task, sites_program

__all__ = ["GROUP_PREFIX", "TracefsUprobe", "define", "group", "remove_our_events", "tracefs"]

GROUP_PREFIX = "pu_bench_"
_GROUP = f"{GROUP_PREFIX}{os.getpid()}"
_numbers = itertools.count()
_READS = 20
"""Of uprobe_profile, which lacks lines while others define events."""
_BUFFER_KIB = "16384"
"""For each CPU: room for what the longest run records."""


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


def group() -> str:
    """The name of this process's events in the kernel."""
    return _GROUP


def remove_our_events() -> None:
    """What runs that have ended have left in the kernel; those of a live process stay."""
    place = tracefs()
    if place is None:
        return
    for instance in (place / "instances").glob(f"{GROUP_PREFIX}*"):
        if _is_orphan(instance.name):
            with suppress(OSError):  # another run has been faster
                instance.rmdir()
    for line in (place / "uprobe_events").read_text().splitlines():
        name = line.split()[0].partition(":")[2]
        if name.startswith(GROUP_PREFIX) and _is_orphan(name.partition("/")[0]):
            with suppress(NotMeasured, OSError):
                define(place, f"-:{name}")


def _is_orphan(group_name: str) -> bool:
    number = group_name.rpartition("_")[2]
    return not number.isdigit() or not Path(f"/proc/{number}").exists()


class TracefsUprobe(Contestant):
    """An event that is enabled, which writes a record into the kernel's ring buffer at each hit.

    The count is the kernel's own (nhit of uprobe_profile). Arguments are read out of the buffer
    afterwards, which is in an instance of its own.
    """

    first_calls = 2000
    stops_per_hit = 0.0

    def __init__(self, kind: str = "p") -> None:
        """`p` or `r`, as in uprobe_events."""
        self._kind = kind
        self.name = "kernel uprobe, tracefs" if kind == "p" else "kernel uretprobe, tracefs"
        if kind == "r":
            self.tasks = (Task.COUNT,)
            self.entries_only = True
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
        # uprobe_profile shows no group: the name alone must be nobody else's.
        self._event = f"{_GROUP}/hit_{os.getpid()}_{next(_numbers)}"
        argument = " value=%di:u64" if job.task is Task.ARGUMENT else ""
        define(
            place, f"{self._kind}:{self._event} {sites_program()}:{job.site.offset:#x}{argument}"
        )
        instance = place / "instances" / _GROUP
        instance.mkdir(exist_ok=True)
        try:
            (instance / "buffer_size_kb").write_text(_BUFFER_KIB)
            (instance / "events" / self._event / "enable").write_text("1")
            yield
        finally:
            instance.rmdir()  # which disables what is enabled in it
            define(place, f"-:{self._event}")

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        place = tracefs()
        assert place is not None
        name = self._event.partition("/")[2]
        hits = None
        for _ in range(_READS):
            rows = map(str.split, (place / "uprobe_profile").read_text().splitlines())
            hits = next((int(row[-1]) for row in rows if row[-2] == name), None)
            if hits is not None:
                break
        if hits == 0:
            raise NotMeasured("the kernel does not probe this instruction: it let all hits pass")
        if job.task is not Task.ARGUMENT:
            return Counted(hits)
        trace = (place / "instances" / _GROUP / "trace").read_text()
        return Counted(hits, sum(map(int, re.findall(r" value=(\d+)$", trace, re.MULTILINE))))
