"""A tracer of its own for each run: a process forked for it, so that a hang is killed, and what one
run has read or cached does not serve the next."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ptrace_uprobes as pu
from bench.contestants.contestant import NotMeasured, last_number
from bench.job import Placement

__all__ = ["apart", "bind", "nanoseconds", "probed_run"]

_BOUND_SECONDS = 60.0


def bind(cpu: int) -> None:
    """All threads of this process: the one that makes all ptrace calls exists by now."""
    for tid in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(tid, {cpu})


def apart(work: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
    """What `work` gives in a process of its own; raises `NotMeasured` with what it raised."""
    gc.collect()
    # Ours to remove: a child that is killed cleans up nothing. What it has started may not have
    # died yet, and still write.
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        said = _said_by_child(work, folder)
    if not said.endswith(b"\n"):
        raise NotMeasured(said.decode())
    answer: dict[str, Any] = json.loads(said)
    if "reason" in answer:
        raise NotMeasured(answer["reason"])
    values: dict[str, float] = answer["values"]
    return values


def _said_by_child(work: Callable[[], Mapping[str, float]], folder: str) -> bytes:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(work, writer, folder)
    os.close(writer)
    try:
        return _read_line(reader, time.monotonic() + _BOUND_SECONDS)
    finally:
        os.close(reader)
        # Its session holds the target and whatever else it has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it has no session yet, if we were interrupted
        os.waitpid(pid, 0)


def _answer(work: Callable[[], Mapping[str, float]], writer: int, folder: str) -> None:
    """In the child, which ends here: nothing of pytest's is flushed or cleaned up twice."""
    os.setsid()
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # The collector shall not walk through, and so copy, all that pytest has.
    gc.freeze()
    try:
        answer: dict[str, Any] = {"values": dict(work())}
    except NotMeasured as reason:
        answer = {"reason": str(reason)}
    except BaseException as error:  # noqa: BLE001  # it is the answer
        answer = {"reason": f"{type(error).__name__}: {error}"[:500]}
    try:
        os.write(writer, json.dumps(answer).encode() + b"\n")
    finally:
        os._exit(0)


def _read_line(reader: int, deadline: float) -> bytes:
    """Not up to the end of the file: a process that the child has left may hold it open."""
    said = b""
    while not said.endswith(b"\n"):
        if not select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return f"hung after {_BOUND_SECONDS:.0f} s".encode()
        part = os.read(reader, 65536)
        if not part:
            return b"the tracer ended without an answer"
        said += part
    return said


def probed_run(
    argv: Sequence[str],
    spec: str,
    expected: Mapping[str, int] | int | None,
    placement: Placement,
    handler: Callable[[pu.Hit], object] | None = None,
    follow_forks: bool = False,
) -> str:
    """What the target writes into its report, its last argument, which is added here. To be called
    in a process of its own. Raises `NotMeasured` unless the target ended well and all hits were
    counted: those `expected`, by label or in all, or as many as it reports `calls`."""
    os.sched_setaffinity(0, {placement.tracee})
    with tempfile.NamedTemporaryFile("r", prefix="bench-") as report:
        with pu.launch([*argv, report.name], follow_forks=follow_forks) as engine:
            bind(placement.tracer)
            probe = engine.probe(spec, handler)
            result = engine.run(timeout=_BOUND_SECONDS / 2)
        text = report.read()
    if result.ended != "exited" or result.exit_status != 0:
        raise NotMeasured(f"the target {result.ended}, status {result.exit_status}")
    if probe.handler_errors:
        raise NotMeasured(f"{probe.handler_errors} errors in the handler")
    if expected is None:
        expected = last_number("calls", text) or 0
    if isinstance(expected, int):
        if probe.hits != expected:
            raise NotMeasured(f"counted {probe.hits} hits of {expected}")
    else:
        wrong = [site for site in probe.sites if site.hits != expected.get(site.label, 0)]
        if wrong or expected.keys() - {site.label for site in probe.sites}:
            raise NotMeasured(f"{len(wrong)} sites are miscounted: {wrong[:3]}")
    if engine.warnings:
        raise NotMeasured(f"warned: {engine.warnings[0]}")
    return text


def nanoseconds(text: str) -> int:
    """Of a target's report."""
    value = last_number("nanoseconds", text)
    if value is None:
        raise NotMeasured("the target has reported no time")
    return value
