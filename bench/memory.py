"""The tracer's own memory with 3,000 sites, in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.procfs import status_fields
from tests.support.target import start_target

import ptrace_uprobes as pu
from bench.planting import many_functions

__all__ = ["main"]

_SITES = 3_000
_CHILD = "measure"


def _kilobytes(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields[field].split()[0])


def _measure(pid: int, spec: str) -> None:
    """In a process of its own, that has imported no more than a user's would."""
    at_start = _kilobytes("VmRSS")
    with pu.attach(pid) as engine:
        probe = engine.probe(spec)
        engine.start()
        print(len(probe.sites), at_start, _kilobytes("VmRSS"), _kilobytes("VmHWM"))


def main() -> None:
    for label, spec in ((f"{_SITES:,} functions of a program", "f[0-9]*"), ("libc:*", "libc:*")):
        with start_target(many_functions(_SITES)) as target:
            command = [sys.executable, "-m", "bench.memory", _CHILD, str(target.pid), spec]
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                cwd=Path(__file__).resolve().parent.parent,
            )
            sites, before, after, peak = map(int, result.stdout.split())
            if status_fields(target.pid)["TracerPid"] != "0":
                raise RuntimeError("the process is still traced")
            target.finish()
        print(
            f"{label}: {sites:,} sites, resident {after / 1024:.1f} MB (peak {peak / 1024:.1f} MB),"
            f" of which {before / 1024:.1f} MB before attaching; goal: under 80 MB"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == [_CHILD]:
        _measure(int(sys.argv[2]), sys.argv[3])
    else:
        main()
