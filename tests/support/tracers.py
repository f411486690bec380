"""Tracers that can be killed: each is a process of its own, forked quickly from one that waits.

`python -m tests.support.tracers` reads one JSON line per tracer and answers with its pid; the
tracer says "tracing" once its traps stand, and then what happens to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import ptrace_uprobes as pu

__all__ = ["Tracers", "tracers"]

_ROOT = Path(__file__).resolve().parent.parent.parent


class Tracers:
    """Starts tracers; those that still run are killed at the end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._started: list[int] = []

    def start(
        self,
        pid: int,
        specs: Sequence[str],
        *,
        wait: bool = True,
        body: str = "",
        **options: object,
    ) -> int:
        """A tracer of `pid`, which has its traps if `wait`; gives its own pid.

        `options` are `pu.attach`'s; `body` is Python that runs before the probes are added, with
        `engine`, `probe` (what to call with each SPEC) and `hits` (a list) at hand.
        """
        assert self._process.stdin is not None
        order = {"pid": pid, "specs": list(specs), "body": body, "options": options}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        tracer = int(self.line())
        self._started.append(tracer)
        if wait:
            assert self.line() == "tracing"
        return tracer

    def line(self) -> str:
        """What a tracer says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError("the tracers have ended")
        return line.rstrip("\n")

    def kill(self, tracer: int, number: int = signal.SIGKILL) -> None:
        """End it, and wait until it has ended."""
        os.kill(tracer, number)
        self.wait(tracer)

    def wait(self, tracer: int) -> int:
        """Until it has ended; gives its exit status as a shell would."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"wait": tracer}) + "\n")
        self._process.stdin.flush()
        self._started.remove(tracer)
        while not (line := self.line()).startswith("ended "):
            pass
        return int(line.split()[1])

    def end(self) -> None:
        assert self._process.stdin is not None
        for tracer in self._started:
            try:
                os.kill(tracer, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.stdin.close()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def tracers(*, wrapper: Sequence[str] = (), stderr: IO[str] | None = None) -> Iterator[Tracers]:
    """Makes tracers ready to be started, run by `wrapper` if given."""
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-m", "tests.support.tracers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=_ROOT,
    )
    made = Tracers(process)
    try:
        yield made
    finally:
        made.end()


def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def _trace(pid: int, specs: list[str], body: str, options: dict[str, object]) -> None:
    engine = pu.attach(pid, **options)  # type: ignore[arg-type]  # as the caller has them
    names: dict[str, object] = {"engine": engine, "pu": pu, "hits": [], "probe": engine.probe}
    exec(body, names)
    for spec in specs:
        names["probe"](spec)  # type: ignore[operator]  # what the body has put there
    engine.start()
    _say("tracing")
    while True:
        time.sleep(100)


def _warm_up(pid: int, specs: list[str], **_: object) -> None:
    """Read the symbols of this program once, for all tracers that are forked later."""
    with pu.attach(pid) as engine:
        for spec in specs:
            engine.probe(spec)


def main() -> None:
    known = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            code = os.waitstatus_to_exitcode(status)
            _say(f"ended {code if code >= 0 else 128 - code}")
            continue
        program = os.readlink(f"/proc/{order['pid']}/exe")
        if program not in known:
            known.add(program)
            _warm_up(**order)
        tracer = os.fork()
        if tracer == 0:
            _trace(**order)
        _say(str(tracer))


if __name__ == "__main__":
    main()
