"""Tools that are Python packages: libdebug, python-ptrace's own breakpoints, Frida."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.contestants.contestant import Command, Contestant, NotMeasured
from bench.contestants.environments import installed_version, python_with
from bench.job import Job, Task

__all__ = ["FromPypi", "frida", "frida_returns", "libdebug", "python_ptrace"]

_INSIDE = Path(__file__).resolve().parent / "inside"


class FromPypi(Contestant):
    """`inside/SCRIPT WORD... ADDRESS READS PROGRAM...`, run by an interpreter that has it."""

    def __init__(
        self,
        name: str,
        package: str,
        script: str,
        *words: str,
        stops_per_hit: float,
        first_calls: int = 300,
        entries_only: bool = False,
        tasks: tuple[Task, ...] = Contestant.tasks,
    ) -> None:
        self.name = name
        self.tasks = tasks
        self.stops_per_hit = stops_per_hit
        self.first_calls = first_calls
        self.entries_only = entries_only
        self._package = package
        self._script = script
        self._words = words
        self._folder: Path | None = None

    def missing(self) -> str | None:
        try:
            python_with(self._package)
        except NotMeasured as reason:
            return str(reason)
        return None

    def version(self) -> str:
        return installed_version(self._package)

    @contextmanager
    def prepared(self, job: Job) -> Iterator[None]:
        try:
            yield
        finally:
            if self._folder is not None:
                _end_programs_in(self._folder)

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        self._folder = folder
        return Command(
            [
                str(python_with(self._package)),
                str(_INSIDE / self._script),
                *self._words,
                f"{job.site.address:#x}",
                "1" if job.task is Task.ARGUMENT else "0",
                *target,
            ],
            # What a tool unpacks there (Frida: 10 MB a run) goes with the folder.
            {"TMPDIR": str(folder)},
        )


def _end_programs_in(folder: Path) -> None:
    """Frida's helper, unpacked there, is in a session of its own and outlives what started it."""
    for link in Path("/proc").glob("[0-9]*/exe"):
        try:
            if link.readlink().is_relative_to(folder):
                os.kill(int(link.parent.name), signal.SIGKILL)
        except OSError:
            pass  # gone, or another user's


libdebug = FromPypi("libdebug, callback", "libdebug", "libdebug_count.py", stops_per_hit=2.0)
python_ptrace = FromPypi(
    "python-ptrace, its Breakpoint",
    "python-ptrace",
    "python_ptrace_count.py",
    stops_per_hit=2.0,
)


def _frida(name: str, kind: str, *tasks: Task) -> FromPypi:
    return FromPypi(
        f"Frida, {name}",
        "frida",
        "frida_count.py",
        kind,
        stops_per_hit=0.0,
        first_calls=20_000,
        entries_only=True,
        tasks=tasks or FromPypi.tasks,
    )


frida = _frida("JavaScript", "js"), _frida("C callback", "c")
frida_returns = (
    _frida("JavaScript onLeave", "js-leave", Task.COUNT),
    _frida("C callback onLeave", "c-leave", Task.COUNT),
)
