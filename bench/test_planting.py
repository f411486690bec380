"""What planting costs before a program begins: functions of libc, beside bpftrace.

test_scaling_planting.py has what it costs in a running process. bpftrace attaches the kernel's
uprobes. Both commands are timed from their start until main() of the program that they launch is
reached, with every probe in place. The program uses a copy of libc, so that nobody else runs into
the kernel's probes. Tool and program share one CPU.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.support.build import build_target

from bench.contest import WIDE
from bench.contestants.contestant import ROOT, NotMeasured
from bench.contestants.kernel_uprobe import define, tracefs
from bench.interval import median_with_interval
from bench.job import one_cpu
from bench.program import library_of, on_cpu
from bench.replay import CLOCK, replay

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="planting")

_HERE = Path(__file__).resolve().parent
_PLACE = one_cpu()
_PLACED = {"placement": _PLACE.name, "cpus": [_PLACE.tracer, _PLACE.tracee]}


_OURS = "ptrace_uprobes"
_BPFTRACE = "bpftrace"
_GLOBS = ("str*", "*")
_BOUND_VARIABLE = "BENCH_BPFTRACE_SECONDS"
_BOUND_SECONDS = float(os.environ.get(_BOUND_VARIABLE, "60"))
_ENOUGH_SECONDS = 15.0
"""A contestant that has taken so long has no further round."""


@dataclass(slots=True)
class _Series:
    seconds: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    """Until the commands had ended, their probes taken out again."""
    not_measured: str | None = None


def _until_main(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds from a command's start until the stamp that its program prints."""
    start = time.monotonic_ns()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            process.wait(_BOUND_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"not done after {_BOUND_SECONDS:.0f} s") from None
        finally:
            # Its program too, which it may have left; the session is ours.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read()
    if match := re.search(r"^nanoseconds (\d+)", text, re.MULTILINE):
        return (int(match[1]) - start) / 1e9
    elapsed = (time.monotonic_ns() - start) / 1e9
    said = [line for line in text.splitlines() if "rror" in line] or text.splitlines()
    last = said[-1].strip()[:200] if said else "it says nothing"
    raise NotMeasured(f"gave up after {elapsed:.1f} s: {last}")


def _remove_events(library: Path) -> None:
    """What a bpftrace that gave up, or was ended, has left in the kernel."""
    place = tracefs()
    if place is None:
        return
    for line in (place / "uprobe_events").read_text().splitlines():
        if str(library) in line:
            event = line.split()[0].partition(":")[2]
            (place / "events" / event / "enable").write_text("0")
            define(place, f"-:{event}")


def _our_command(glob: str, library: Path, stamp: Path) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", "ptrace_uprobes", "--count", "-e", f"libc:{glob}", "--"]
    return [*command, str(stamp)], {"LD_LIBRARY_PATH": str(library.parent)}


def _their_command(glob: str, library: Path, stamp: Path) -> tuple[list[str], dict[str, str]]:
    # Through env(1): bpftrace itself is not to use the copy.
    program = f"/usr/bin/env LD_LIBRARY_PATH={library.parent} {stamp}"
    script = f"uprobe:{library}:{glob} {{ @hits = count(); }}"
    return [_BPFTRACE, "-e", script, "-c", program], {"BPFTRACE_MAX_PROBES": "100000"}


_COMMANDS = {_OURS: _our_command, _BPFTRACE: _their_command}


def _absence(contestant: str, glob: str) -> str | None:
    if contestant == _BPFTRACE:
        if shutil.which(_BPFTRACE) is None:
            return "bpftrace is not installed"
        if os.geteuid() != 0:
            return "needs root"
        if glob == "*" and _BOUND_VARIABLE not in os.environ:
            # The kernel waits for a grace period of RCU per probe, which SIGKILL does not end, and
            # bpftrace gives up on all where it refuses one (of libc: __restore_rt, of size 0).
            return f"takes minutes, and longer to be ended; {_BOUND_VARIABLE}=600 tries it"
    return None


@functools.cache
def _launches(
    glob: str, contestants: tuple[str, ...], rounds: int, progress: Callable[[str], None]
) -> dict[str, _Series]:
    stamp = build_target(_HERE / "targets" / "stamp.c")
    series = {name: _Series(not_measured=_absence(name, glob)) for name in contestants}
    libc = library_of(stamp, "libc.so")
    if libc is None:
        return {name: _Series(not_measured="no libc is found") for name in contestants}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        library = Path(shutil.copy(libc, Path(folder) / "libc.so.6"))
        for number in range(rounds):
            turn = list(series.items())
            for name, one in reversed(turn) if number % 2 else turn:
                if one.not_measured is not None or one.elapsed > _ENOUGH_SECONDS:
                    continue
                progress(f"libc:{glob}: {name}, round {number + 1} of {rounds}")
                command, environment = _COMMANDS[name](glob, library, stamp)
                start = time.monotonic()
                try:
                    with on_cpu(_PLACE.tracer):
                        one.seconds.append(_until_main(command, environment))
                except NotMeasured as reason:
                    one.not_measured = str(reason)
                finally:
                    _remove_events(library)
                    one.elapsed += time.monotonic() - start
    return series


@pytest.mark.parametrize(
    ("glob", "contestant"),
    [
        pytest.param(
            glob,
            name,
            marks=[]
            if name == _OURS
            # bpftrace takes a tenth of a second to let go of each probe.
            else [pytest.mark.full_only],
        )
        for glob in _GLOBS
        for name in _COMMANDS
    ],
)
def test_until_main(
    glob: str,
    contestant: str,
    benchmark: BenchmarkFixture,
    quick: bool,
    progress: Callable[[str], None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    contestants = (_OURS,) if quick else tuple(_COMMANDS)
    results = _launches(glob, contestants, 3 if quick else 5, progress)
    mine = results[contestant]
    if mine.not_measured is not None:
        not_measured(mine.not_measured)
    facts: dict[str, object] = {}
    ours = results[_OURS].seconds
    if contestant != _OURS and ours:
        ratios = [a / b for a, b in zip(mine.seconds, ours, strict=False)]
        ratio = median_with_interval(ratios)
        facts = {
            "ratio_to": _OURS,
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "ratios": ratios,
            "disturbed": ratio.high - ratio.low > WIDE * ratio.median,
        }
    benchmark.group = f"launch until main(), probes on libc:{glob}"
    replay(
        benchmark,
        mine.seconds,
        kind="planting",
        contestant=contestant,
        action="launch until main()",
        glob=f"libc:{glob}",
        **_PLACED,
        **facts,
    )
