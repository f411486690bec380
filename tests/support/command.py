"""The command, run as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COMMAND", "Run", "records", "run", "running"]

COMMAND = (sys.executable, "-m", "ptrace_uprobes")
_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """What a shell would see; `status` is 128+N for a death by signal N."""

    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that an error is, without its prefix."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        prefix = "ptrace-uprobes: error: "
        assert lines[0].startswith(prefix), self.stderr
        return lines[0].removeprefix(prefix)


def run(
    *arguments: str | Path,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
    cwd: Path | None = None,
) -> Run:
    """The command to its end."""
    finished = subprocess.run(
        [*wrapper, *COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT,
        env=None if env is None else {**os.environ, **env},
        cwd=cwd,
    )
    status = finished.returncode
    return Run(status if status >= 0 else 128 - status, finished.stdout, finished.stderr)


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs, with its standard error as a pipe."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        # Not read to their end: a command that was let go of may hold them open.
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def records(text: str, kind: str) -> list[dict[str, Any]]:
    """The JSON records of one type; every line must be a record."""
    return [record for record in map(json.loads, text.splitlines()) if record["type"] == kind]
