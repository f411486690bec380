"""What Python itself costs: the shortest loops in it that serve a hit, without an engine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.contestant import Command, Contestant
from bench.job import Job, Task

__all__ = ["PythonLoop"]

_SCRIPT = Path(__file__).resolve().parent / "inside" / "shortest_loop.py"
_NAMES = {
    "bare": "Python loop, no registers",
    "peek": "Python loop, RIP alone read and written",
}


class PythonLoop(Contestant):
    """As `CLoop` in the same mode, with os.waitpid() and ptrace(2) through ctypes."""

    tasks = (Task.COUNT,)
    stops_per_hit = 1.0

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self.name = _NAMES[mode]

    def version(self) -> str:
        return f"{platform.python_implementation()} {platform.python_version()}"

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        address = f"{job.site.address:#x}"
        return Command([sys.executable, str(_SCRIPT), self._mode, address, *target])
