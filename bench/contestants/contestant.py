"""A contestant: a tool that can do a job, how it is started and how its count is read."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.job import Job, Task, sites_program

__all__ = ["Command", "Contestant", "Counted", "NotMeasured", "Outcome", "last_number"]

ROOT = Path(__file__).resolve().parents[2]
BOUND_SECONDS = 20.0
"""A run that takes longer hangs, for us."""


class NotMeasured(Exception):
    """Why there is no figure: what the report says in its place."""


class _Hung(NotMeasured):
    """It was given `BOUND_SECONDS`."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a tool says that it saw; `None` where it was not asked."""

    hits: int | None
    sum: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: seconds per hit by the target's own clock."""

    seconds_per_hit: float
    hits: int


@dataclass(frozen=True, slots=True)
class Command:
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to ours."""


def last_number(name: str, text: str) -> int | None:
    """N of the last line `NAME N` in `text`."""
    found = re.findall(rf"^{name} (\d+)\s*$", text, re.MULTILINE)
    return int(found[-1]) if found else None


_hung: dict[str, str] = {}
"""Tools that did not come back once: they are not waited for again."""


class Contestant(ABC):
    """One tool in one way of using it."""

    name: str
    """In reports: `gdb, Python stop()`."""
    tasks: tuple[Task, ...] = (Task.COUNT, Task.ARGUMENT)
    entries_only = False
    """It probes functions, not instructions."""
    stops_per_hit: float | None = None
    """ptrace-stops, where that is how it works."""
    first_calls = 300
    """Of the first run, whose cost says how many calls the others make."""

    def missing(self) -> str | None:
        """Why it cannot take part on this machine; None if it can."""
        return None

    @abstractmethod
    def version(self) -> str: ...

    def refuses(self, job: Job) -> str | None:
        """Why it cannot do this job though it is there."""
        if job.task not in self.tasks:
            return f"cannot do the task {job.task.value!r}"
        if self.entries_only and not job.site.at_entry:
            return "probes entries of functions only"
        return None

    @abstractmethod
    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        """What runs `target` under the tool; `folder` is for its scripts and results."""

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        """From what was printed, or left in `folder`."""
        return Counted(last_number("hits", printed), last_number("sum", printed))

    @contextmanager
    def prepared(self, job: Job) -> Iterator[None]:
        """What must stand while the command runs, as a probe in the kernel."""
        yield

    def run(self, job: Job) -> Outcome:
        """One run, its count checked against the truth; raises `NotMeasured`."""
        if self.name in _hung:
            raise NotMeasured(_hung[self.name])
        with tempfile.TemporaryDirectory(prefix="bench-") as name, self.prepared(job):
            folder = Path(name)
            report = folder / "report"
            target = [
                str(sites_program()),
                job.site.name,
                str(job.calls),
                str(report),
                str(job.placement.tracee),
            ]
            command = self.command(job, target, folder)
            try:
                printed, status = _run_bounded(command, job.placement.tracer, report)
            except _Hung as hung:
                _hung[self.name] = str(hung)
                raise
            text = report.read_text() if report.exists() else ""
            nanoseconds = last_number("nanoseconds", text)
            if nanoseconds is None:
                raise NotMeasured(f"the target did not finish{_by(status)}; {_last_line(printed)}")
            counted = self.read_count(job, printed, folder)
        if counted.hits is None:
            raise NotMeasured(f"no count; {_last_line(printed)}")
        if counted.hits != job.expected_hits:
            raise NotMeasured(f"counted {counted.hits} hits of {job.expected_hits}")
        if job.task is Task.ARGUMENT and counted.sum != job.expected_sum:
            raise NotMeasured(f"the arguments' sum is {counted.sum}, not {job.expected_sum}")
        return Outcome(nanoseconds / job.calls / 1e9, counted.hits)


def _last_line(printed: str) -> str:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return f"it says: {lines[-1][:200]}" if lines else "it says nothing"


def _by(status: int) -> str:
    """What ended the command, which is often the target itself."""
    return f": {signal.Signals(-status).name} ended it" if status < 0 else ""


def _run_bounded(command: Command, cpu: int, report: Path) -> tuple[str, int]:
    """All that it prints, and its exit status. Bound to `cpu`, in a session of its own, so that a
    tool that hangs is killed with all that it has started."""
    pin = ["taskset", "-c", str(cpu)] if cpu >= 0 else []
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [*pin, *command.argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.environment},
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            process.wait(BOUND_SECONDS)
        except subprocess.TimeoutExpired:
            raise _Hung(f"hung after {BOUND_SECONDS:.0f} s") from None
        finally:
            _end(process, report)
        output.seek(0)
        return output.read(), process.returncode


def _end(process: subprocess.Popen[bytes], report: Path) -> None:
    """Nothing of a run outlives it, whatever ended it: the target first, which a tool may have
    put into a session of its own."""
    if process.poll() is not None:
        return
    pid = last_number("pid", report.read_text()) if report.exists() else None
    for kill, victim in ((os.kill, pid), (os.killpg, process.pid)):
        if victim is not None:
            with contextlib.suppress(ProcessLookupError):
                kill(victim, signal.SIGKILL)
    process.wait()
