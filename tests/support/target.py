"""Starts targets and tells when they are ready, what they printed and how they ended.

A target is never a child of the test process: `parent.c` stands between, as a shell would,
and reports what a parent sees (stops, continuations, the end). So a test can attach to a
process that is not its child, and nobody but `parent.c` takes its exit status.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.build import build_target

__all__ = ["Ended", "Target", "parse_report", "start_target"]

LIMIT = 60.0
"""Seconds that any one wait may take before the test fails."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a target ended: `status` as a shell would say it (128+N for signal N)."""

    status: int
    stdout: str
    stderr: str
    events: tuple[str, ...]
    """What its parent saw: "stopped 20", "continued", "exited 0", "killed 9"."""

    @property
    def report(self) -> dict[str, int]:
        return parse_report(self.stdout)


def parse_report(stdout: str) -> dict[str, int]:
    """The numbers that a target prints of itself, one `NAME NUMBER` per line."""
    report = {}
    for line in stdout.splitlines():
        name, _, number = line.rpartition(" ")
        if name and number.lstrip("-").isdigit():
            report[name] = int(number)
    return report


class _Lines:
    """Lines from a pipe, each waited for at most `LIMIT` seconds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ)

    def next(self, what: str) -> str:
        deadline = time.monotonic() + LIMIT
        while b"\n" not in self._pending:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"waited {LIMIT} s in vain for {what}")
            chunk = os.read(self._descriptor, 4096)
            if not chunk:
                raise EOFError(f"the other end closed before {what}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        self._selector.close()
        os.close(self._descriptor)


class Target:
    """A running target."""

    def __init__(
        self,
        parent: subprocess.Popen[bytes],
        status: _Lines,
        ready: _Lines,
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> None:
        self._parent = parent
        self._status = status
        self._ready = ready
        self._stdout = stdout
        self._stderr = stderr
        self.events: list[str] = []
        self.pid = int(status.next("the target's pid").split()[1])

    def wait_ready(self) -> None:
        """Until the target says so on its READY_FD; may be said (and waited for) repeatedly."""
        self._ready.next("the target's 'ready'")

    def go(self) -> None:
        """Lets a target on that waits for its standard input."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(b"\n")
        self._parent.stdin.flush()

    def wait_event(self, wanted: str) -> None:
        """Until the parent has seen `wanted` ("stopped 19", "continued") of the target."""
        while True:
            self.events.append(self._status.next(f"the event {wanted!r}"))
            if self.events[-1] == wanted:
                return

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def finish(self) -> Ended:
        """Closes the target's standard input and waits for its end."""
        assert self._parent.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._parent.stdin.close()
        while not (self.events and self.events[-1].startswith(("exited", "killed"))):
            self.events.append(self._status.next("the target's end"))
        self._parent.wait(LIMIT)
        verb, number = self.events[-1].split()
        self._stdout.seek(0)
        self._stderr.seek(0)
        return Ended(
            status=int(number) + (128 if verb == "killed" else 0),
            stdout=self._stdout.read().decode(errors="replace"),
            stderr=self._stderr.read().decode(errors="replace"),
            events=tuple(self.events),
        )

    def end(self) -> None:
        """Whatever state it is in: dead afterwards, and reaped."""
        if self._parent.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._parent.kill()
            self._parent.wait()
        if self._parent.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._parent.stdin.close()
        self._status.close()
        self._ready.close()


@contextmanager
def start_target(
    program: Path | str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
    wait: bool = True,
) -> Iterator[Target]:
    """A target that has said "ready" (unless `wait` is false), killed at the end if need be."""
    status_read, status_write = os.pipe()
    ready_read, ready_write = os.pipe()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        parent = subprocess.Popen(
            [*map(str, (build_target("parent.c"), status_write, *wrapper, program)), *arguments],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(status_write, ready_write),
            env={
                **(os.environ if environment is None else environment),
                "READY_FD": str(ready_write),
            },
        )
        os.close(status_write)
        os.close(ready_write)
        target = Target(parent, _Lines(status_read), _Lines(ready_read), stdout, stderr)
        try:
            if wait:
                target.wait_ready()
            yield target
        finally:
            target.end()
