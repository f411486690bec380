"""Tools that a user might think of and that cannot take part, each with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.contestant import Command, Contestant
from bench.job import Job

__all__ = ["UNAVAILABLE"]


class _Unavailable(Contestant):
    def __init__(self, name: str, reason: str, program: str = "") -> None:
        """`reason` stands as long as `program`, if one is named, is not installed."""
        self.name = name
        self._reason = reason
        self._program = program

    def missing(self) -> str | None:
        if self._program and shutil.which(self._program):
            return f"{self._program} is installed, but nobody has written how to drive it here"
        return self._reason

    def version(self) -> str:
        return ""

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        raise NotImplementedError(self._reason)


UNAVAILABLE: tuple[Contestant, ...] = (
    _Unavailable("bpftime", "neither Debian nor PyPI has it", "bpftime"),
    _Unavailable("Dyninst", "Debian does not have it, and it has no Python module"),
    _Unavailable(
        "SystemTap",
        "it needs a kernel module, for which a kernel has to have modules, or Dyninst, which"
        " Debian's is built without",
    ),
    _Unavailable("strace", "traces system calls, not functions"),
)
