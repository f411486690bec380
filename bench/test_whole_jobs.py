"""malloc() counted in whole programs: the wall time of the whole command, the tool's start with it.

Tool and program share one CPU. Each tool's run stands beside a run of the same command without one,
first the one and then the other in turn; the ratio is taken pair by pair. All count on a copy of
libc that only these runs load, because the kernel counts whoever executes the file. Its count, nhit
of uprobe_profile, is the truth that every other count has to equal; the program's output and exit
status must be those of the run without a tool.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import WIDE
from bench.contestants.contestant import ROOT, NotMeasured
from bench.contestants.kernel_uprobe import define, group, tracefs
from bench.elf import file_offset
from bench.interval import median_with_interval
from bench.job import one_cpu
from bench.program import (
    build_environment,
    dynamic_symbol,
    elf_program,
    killed_late,
    library_of,
    on_cpu,
    text,
)
from bench.replay import CLOCK, replay

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="malloc in a whole program")

_FUNCTION = "malloc"
_WORDS = """
create table t(a integer primary key, b text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
  insert into t select i, 'row ' || (i * 7919 % 1009) from n;
select group_concat(upper(b), ',') from (select b from t where b like '%7%' order by b limit 300);
"""


@dataclass(frozen=True, slots=True)
class Job:
    """A command whose calls of malloc are counted."""

    name: str
    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


_READS = 20
_FILE = "FILE"
"""Among a job's arguments: a file of made-up text."""
JOBS = {
    job.name: job
    for job in (
        Job("sort a file", "sort", ("-k2", _FILE)),
        Job("start python3", "python3", ("-c", "pass")),
        Job("start python3, PYTHONMALLOC=malloc", "python3", ("-c", "pass"),
            {"PYTHONMALLOC": "malloc"}),
        Job("sqlite3, 2,000 rows", "sqlite3", ("-batch", ":memory:", _WORDS)),
    )
}  # fmt: skip
_QUICK_JOBS = ("sort a file", "start python3")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A job on this machine."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    libc: Path
    """The copy that the program loads."""
    folder: Path

    @property
    def address(self) -> int:
        return dynamic_symbol(self.libc, _FUNCTION)


@dataclass(frozen=True, slots=True)
class _Ended:
    status: int
    output: bytes
    said: str
    """On standard error."""
    seconds: float


class Tool:
    """One that counts; this one does not."""

    name = "no probe"
    output = "output"
    """The file that takes what the program prints."""

    def missing(self) -> str | None:
        return None

    @contextmanager
    def prepared(self, job: _Prepared) -> Iterator[None]:
        """What must stand while the command runs."""
        yield

    def command(self, job: _Prepared) -> tuple[Sequence[str], Mapping[str, str]]:
        """And its environment."""
        return job.argv, job.environment

    def hits(self, job: _Prepared, said: str) -> int | None:
        return None


def _with_env(job: _Prepared) -> list[str]:
    """The program by env(1), with exactly the environment that it has without a tool: python3
    calls malloc for each variable. For tools that are not to use the program's libc themselves."""
    environment = build_environment(**job.environment)
    settings = [f"{name}={value}" for name, value in environment.items()]
    return ["/usr/bin/env", "-i", *settings, *job.argv]


class Ours(Tool):
    name = "ptrace_uprobes"

    def command(self, job: _Prepared) -> tuple[Sequence[str], Mapping[str, str]]:
        options = ["--count", "--format", "jsonl", "-o", str(job.folder / "counts")]
        command = [sys.executable, "-m", "ptrace_uprobes", *options, "-e", f"libc:{_FUNCTION}"]
        return [*command, "--", *job.argv], job.environment

    def hits(self, job: _Prepared, said: str) -> int | None:
        summary = json.loads((job.folder / "counts").read_text().splitlines()[-1])
        count = summary["probes"][f"libc:{_FUNCTION}"]
        if count["missed"]:
            raise NotMeasured(f"missed {count['missed']} hits")
        return int(count["hits"])


class KernelUprobe(Tool):
    name = "kernel uprobe, tracefs"
    _event = f"{group()}/{_FUNCTION}"

    def missing(self) -> str | None:
        if os.geteuid() != 0:
            return "needs root"
        return None if tracefs() is not None else "no tracefs with uprobe_events is mounted"

    @contextmanager
    def prepared(self, job: _Prepared) -> Iterator[None]:
        place = tracefs()
        if place is None:
            raise NotMeasured("no tracefs with uprobe_events is mounted")
        define(place, f"p:{self._event} {job.libc}:{file_offset(job.libc, job.address):#x}")
        enable = place / "events" / self._event / "enable"
        try:
            enable.write_text("1")
            yield
        finally:
            enable.write_text("0")
            define(place, f"-:{self._event}")

    def hits(self, job: _Prepared, said: str) -> int | None:
        place = tracefs()
        assert place is not None
        # While others add and remove probes, a line may be passed over (seq_file counts lines).
        for _ in range(_READS):
            for line in (place / "uprobe_profile").read_text().splitlines():
                path, name, count = line.split()[:3]
                if path == str(job.libc) and name == self._event.partition("/")[2]:
                    return int(count)
        return None


class Bpftrace(Tool):
    name = "bpftrace"
    output = "output_of_program"  # bpftrace adds empty lines to its own

    def missing(self) -> str | None:
        if shutil.which("bpftrace") is None:
            return "bpftrace is not installed"
        return None if os.geteuid() == 0 else "needs root"

    def command(self, job: _Prepared) -> tuple[Sequence[str], Mapping[str, str]]:
        script = f"uprobe:{job.libc}:{_FUNCTION} {{ @hits = count(); }}"
        # bpftrace splits what -c is given at blanks, and knows no quoting.
        runner = job.folder / "run"
        program = " ".join(map(shlex.quote, _with_env(job)))
        runner.write_text(f"exec {program} > {job.folder / self.output}\n")
        options = ["-o", str(job.folder / "maps"), "-e", script]
        return ["bpftrace", *options, "-c", f"/bin/sh {runner}"], {}

    def hits(self, job: _Prepared, said: str) -> int | None:
        found = re.search(r"^@hits: (\d+)", (job.folder / "maps").read_text(), re.MULTILINE)
        return None if found is None else int(found[1])


class Ltrace(Tool):
    name = "ltrace -x -c"

    def missing(self) -> str | None:
        return None if shutil.which("ltrace") is not None else "ltrace is not installed"

    def command(self, job: _Prepared) -> tuple[Sequence[str], Mapping[str, str]]:
        places = ["-e", "NOTHING@NOTHING", "-x", f"{_FUNCTION}@libc.so*"]
        return ["ltrace", "-c", *places, "-o", str(job.folder / "counts"), *job.argv], (
            job.environment
        )

    def hits(self, job: _Prepared, said: str) -> int | None:
        for line in (job.folder / "counts").read_text().splitlines():
            row = line.split()
            if len(row) == 5 and row[4].partition("@")[0] == _FUNCTION:
                return int(row[3])
        return None


_PLAIN, _KERNEL = Tool(), KernelUprobe()
_TOOLS: tuple[Tool, ...] = (_PLAIN, Ours(), _KERNEL, Bpftrace(), Ltrace())
_QUICK_TOOLS = 3
_PLACE = one_cpu()


def _run(tool: Tool, job: _Prepared) -> _Ended:
    """In a session of its own, so that a tool that hangs is killed with all that it has started."""
    argv, environment = tool.command(job)
    printed, errors = job.folder / "output", job.folder / "errors"
    with printed.open("wb") as out, errors.open("wb") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=build_environment(**environment),
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            with killed_late(partial(os.killpg, process.pid, signal.SIGKILL)):
                process.wait()
                seconds = time.perf_counter() - start
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = errors.read_text(errors="replace")
    return _Ended(process.returncode, (job.folder / tool.output).read_bytes(), said, seconds)


def _counted(tool: Tool, job: _Prepared) -> tuple[_Ended, int | None]:
    with tool.prepared(job):
        ended = _run(tool, job)
        try:
            return ended, tool.hits(job, ended.said)
        except (OSError, ValueError, LookupError):
            said = ended.said.strip().splitlines() or ["it says nothing"]
            raise NotMeasured(f"no count; {said[-1][:200]}") from None


@dataclass(slots=True)
class _Result:
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    """To the run without a tool right before, or right after."""
    hits: int | None = None
    not_measured: str | None = None


def _one_round(
    tool: Tool, job: _Prepared, truth: int | None, result: _Result, tool_first: bool
) -> None:
    counted = _counted(tool, job) if tool_first and tool is not _PLAIN else None
    plain = _run(_PLAIN, job)
    if plain.status != 0:
        raise NotMeasured(f"without a tool it ends with status {plain.status}")
    if tool is _PLAIN:
        counted = plain, None
    ended, hits = counted or _counted(tool, job)
    if tool is not _PLAIN:
        if (ended.status, ended.output) != (plain.status, plain.output):
            raise NotMeasured(
                f"status {ended.status}, {len(ended.output)} bytes of output; "
                f"without it status {plain.status}, {len(plain.output)} bytes"
            )
        if hits is None:
            raise NotMeasured("no count")
        if truth is not None and hits != truth:
            raise NotMeasured(f"counted {hits} calls; the kernel {truth}")
        result.hits = hits
    result.seconds.append(ended.seconds)
    result.ratios.append(ended.seconds / plain.seconds)


def _compare(
    job: _Prepared, tools: Sequence[Tool], rounds: int, show: Callable[[str], None]
) -> dict[str, _Result]:
    results = {tool.name: _Result(not_measured=tool.missing()) for tool in tools}
    truth = None
    if results[_KERNEL.name].not_measured is None:
        show("the kernel's count")
        try:
            _, truth = _counted(_KERNEL, job)
        except NotMeasured as reason:
            results[_KERNEL.name].not_measured = str(reason)
    for number in range(rounds):
        for tool in tools:
            result = results[tool.name]
            if result.not_measured is None:
                show(f"{tool.name}, round {number + 1} of {rounds}")
                try:
                    _one_round(tool, job, truth, result, tool_first=number % 2 == 1)
                except NotMeasured as reason:
                    result.not_measured = str(reason)
    return results


@functools.cache
def _results(name: str, quick: bool, progress: Callable[[str], None]) -> dict[str, _Result]:
    job = JOBS[name]
    tools = _TOOLS[:_QUICK_TOOLS] if quick else _TOOLS
    program = elf_program(job.program)
    libc = None if program is None else library_of(program, "libc.so")
    if program is None or libc is None:
        reason = f"{job.program} is not installed" if program is None else "it uses no libc.so"
        return {tool.name: _Result(not_measured=reason) for tool in tools}
    with tempfile.TemporaryDirectory(prefix="bench-") as name_of_folder:
        folder = Path(name_of_folder)
        copy = Path(shutil.copy(libc, folder / "libc.so.6"))
        file = folder / "text"
        file.write_bytes(text(1_000_000))
        prepared = _Prepared(
            [str(program), *(str(file) if word == _FILE else word for word in job.arguments)],
            {**job.environment, "LD_LIBRARY_PATH": str(folder)},
            copy,
            folder,
        )
        with on_cpu(_PLACE.tracer):
            return _compare(
                prepared, tools, 3 if quick else 5, lambda said: progress(f"{name}: {said}")
            )


@pytest.mark.parametrize(
    ("job", "tool"),
    [
        pytest.param(
            job,
            tool.name,
            marks=[] if job in _QUICK_JOBS and number < _QUICK_TOOLS else [pytest.mark.full_only],
        )
        for job in JOBS
        for number, tool in enumerate(_TOOLS)
    ],
)
def test_count(
    job: str,
    tool: str,
    benchmark: BenchmarkFixture,
    quick: bool,
    progress: Callable[[str], None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    results = _results(job, quick, progress)
    result = results[tool]
    if result.not_measured is not None:
        not_measured(result.not_measured)
    facts: dict[str, object] = {}
    if tool != _PLAIN.name:
        ratio = median_with_interval(result.ratios)
        facts = {
            "hits": result.hits,
            "checked_against_kernel": results[_KERNEL.name].hits is not None,
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "ratios": result.ratios,
            "disturbed": ratio.high - ratio.low > WIDE * ratio.median,
        }
    benchmark.group = f"malloc in a whole program: {job}"
    replay(
        benchmark,
        result.seconds,
        kind="whole job",
        contestant=tool,
        job=job,
        placement=_PLACE.name,
        cpus=[_PLACE.tracer, _PLACE.tracee],
        **facts,
    )
