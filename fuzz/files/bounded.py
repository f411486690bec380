"""Work done in a child process that has no more time and memory than it is given."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["MEMORY", "SECONDS", "Verdict", "bounded"]

SECONDS = 10
"""Of the processor's time, for all readers of one file of up to 8 MiB, whatever is in it; the
true ones take a tenth of it."""
MEMORY = 256 << 20
"""Bytes of address space on top of what the process has at the start."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of it."""

    outcome: str
    """What the work returned; or what is wrong."""
    is_failure: bool
    seconds: float
    """Of the processor's time."""
    peak: int
    """Bytes of memory at the most, on top of those at the start."""


def bounded(work: Callable[[], str], *, seconds: float = SECONDS, memory: int = MEMORY) -> Verdict:
    """Run `work` in a fork. A failure: any exception, a signal, or a bound that is broken."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            before = _pages("VmHWM")
            resource.setrlimit(resource.RLIMIT_AS, (_pages("VmSize") + memory,) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 20 * seconds)
            try:
                text = work()
                status = 0
            except BaseException as error:  # noqa: BLE001  # whatever it is, it is the find
                frames = traceback.extract_tb(error.__traceback__)[-3:]
                where = " < ".join(f"{f.name}:{f.lineno}" for f in reversed(frames))
                text = f"{type(error).__name__}: {str(error)[:200]} ({where})"
            os.write(writing, f"{max(0, _pages('VmHWM') - before)} {text}".encode(errors="replace"))
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status, usage = os.wait4(pid, 0)
    peak, _, text = said.partition(" ")
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        text = f"killed by {name}" + (" (too long)" if name in ("SIGPROF", "SIGALRM") else "")
    return Verdict(text, status != 0, usage.ru_utime + usage.ru_stime, int(peak or 0))


def _pages(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    raise AssertionError(f"no {field}", time.time(), sys.platform)
