"""What a program pays for probes that it never reaches.

gzip, sqlite3 and python3 start, load their libraries and wait for their input. Then up to 1,000
functions that their work does not call are probed in the waiting process, its memory compared with
what it was right before, and the input given. Measured is from there to the program's end: its wall
time, and its own user and system time by getrusage(2). The tracer's start and its planting are
not part of it (test_planting.py has them). The program has one CPU; the tracer, and what feeds the
program, have the other where there are two. Runs with probes and without alternate, first the one
and then the other of each pair; the ratio is taken pair by pair.

Which functions are cold was counted before: with probes on all functions of the module and little
of the input, then with probes on a sample of those left and all of it. What is hit nevertheless
is recorded; more than a few hits, or any change of the output, make the run worth nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import WIDE
from bench.contestants.contestant import BOUND_SECONDS, ROOT, NotMeasured
from bench.interval import median_with_interval
from bench.job import Placement, placements
from bench.program import (
    PAGE,
    Run,
    build_environment,
    elf_program,
    memory_of,
    on_cpu,
    pinned,
    text,
    waiting,
)
from bench.replay import CLOCK, replay

pytestmark = pytest.mark.benchmark(timer=CLOCK, group="probes that are not hit")

_SITES = 1000
_SPARE = 50
_FEW_HITS = 10
"""In a run: what does not show in its time. python3 is not the same to the last call."""
_CONTESTANTS = ("no probe", "ptrace_uprobes, cold probes")
_PLACE = placements()[-1]
_MEASURES = ("cpu", "wall")
"""CPU time first: it is what the program itself pays."""


def _sql(rows: int) -> bytes:
    return f"""
create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows})
  insert into t select i, 'row ' || (i * 7919 % 10007), i / 3.0 from n;
create index by_text on t(b);
select b, count(*), round(avg(c), 3) from t where b like '%7%' group by b order by b desc limit 99;
select sum(length(b) * c) from t join (select a as k from t where a % 3 = 0) on a = k;
pragma integrity_check;
""".encode()


def _script(turns: int) -> bytes:
    return f"""
def sieve(size):
    flags = bytearray([1]) * size
    for i in range(2, int(size ** 0.5) + 1):
        if flags[i]:
            flags[i * i :: i] = bytes(len(range(i * i, size, i)))
    return sum(flags)

value = 0
seen = dict()
for turn in range({turns}):
    value = (value * 31 + turn) % 1000003
    if turn % 10 == 0:
        seen[value] = str(turn)
print(value, len(seen), sieve({turns}), sorted(seen.items())[:5])
""".encode()


@dataclass(frozen=True)
class Workload:
    """A program that reads its work from its standard input."""

    program: str
    arguments: Sequence[str]
    module: str
    """Whose functions are probed; `""` is the program itself."""
    work: Callable[[int], bytes]
    size: int
    """What `work` makes half a second of."""
    small: int
    """What it makes a few milliseconds of, on the same paths through the program."""


WORKLOADS = {
    load.program: load
    for load in (
        Workload("gzip", ("-9", "-c", "-n"), "libc", text, 6_000_000, 300_000),
        Workload("sqlite3", ("-batch", ":memory:"), "libsqlite3", _sql, 400_000, 150),
        Workload("python3", ("-S", "-"), "", _script, 2_000_000, 1_500),
    )
}


@dataclass(slots=True)
class _Result:
    sites: int = 0
    hits: int = 0
    """Of all runs together: functions that were cold before."""
    runs: dict[str, list[Run]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes that planting has added."""
    not_measured: str | None = None

    def ratios(self, measure: str) -> list[float]:
        pairs = zip(*(self.runs[name] for name in _CONTESTANTS), strict=True)
        return [getattr(probed, measure) / getattr(plain, measure) for plain, probed in pairs]


class _Tracer:
    """bench.attached_run on a process."""

    def __init__(self, process: subprocess.Popen[str], specs: Sequence[str]) -> None:
        self._process = process
        assert process.stdin is not None
        # It reads all of them before it prints anything.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("".join(f"{spec}\n" for spec in specs))
            process.stdin.close()
        self.sites: int = self._next()["sites"]

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(BOUND_SECONDS)
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip().splitlines()
            raise NotMeasured(f"the tracer failed: {said[-1] if said else 'it says nothing'}")
        found: dict[str, Any] = json.loads(line)
        return found

    def hits(self) -> dict[str, int]:
        """By label, when the process has ended; raises `NotMeasured` if any was missed."""
        ended = self._next()
        if ended["missed"] or ended["ended"] != "exited":
            raise NotMeasured(f"{ended['missed']} hits missed; the run {ended['ended']}")
        return {label: hits for label, _, hits in ended["hits"]}


@contextmanager
def _traced(pid: int, specs: Sequence[str]) -> Iterator[_Tracer]:
    """All traps are written when the block begins."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.attached_run", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield _Tracer(process, specs)
        process.wait(BOUND_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"the tracer hung after {BOUND_SECONDS:.0f} s") from None
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _cold_labels(argv: Sequence[str], specs: Sequence[str], work: bytes) -> list[str]:
    """Those of the functions that `specs` name that a run with this work never calls."""
    environment = build_environment()
    with waiting(argv, environment) as program:
        plain = program.feed(work)
    with waiting(argv, environment) as program:
        with _traced(program.pid, specs) as tracer:
            counted = program.feed(work)
            hits = tracer.hits()
    if counted.output != plain.output:
        raise NotMeasured("the output changed while functions were counted")
    return sorted(label for label, count in hits.items() if count == 0)


def _cold_specs(argv: Sequence[str], place: str, load: Workload, work: bytes) -> list[str]:
    """At most `_SITES` probes on functions of `place` that a run with this work never calls."""
    cold = _cold_labels(argv, [f"{place}:*"], load.work(load.small))
    picked = random.Random(1).sample(cold, min(_SITES + _SPARE, len(cold)))
    # Few of them are left that only more work reaches: this run is fast.
    cold = _cold_labels(argv, [f"{place}:{label}" for label in picked], work)
    return [f"{place}:{label}" for label in cold[:_SITES]]


def _plain_run(argv: Sequence[str], work: bytes) -> Run:
    with waiting(argv, build_environment()) as program:
        return program.feed(work)


@dataclass(frozen=True, slots=True)
class _Probed:
    run: Run
    sites: int
    hits: Mapping[str, int]
    """Of functions that were cold before."""
    grown: Mapping[str, int]
    """Bytes that planting has added."""


def _probed_run(argv: Sequence[str], specs: Sequence[str], work: bytes) -> _Probed:
    with waiting(argv, build_environment()) as program:
        before = memory_of(program.pid)
        with _traced(program.pid, specs) as tracer:
            after = memory_of(program.pid)
            run = program.feed(work)
            hits = {label: count for label, count in tracer.hits().items() if count}
    grown = {name: after[name] - before[name] for name in before}
    return _Probed(run, tracer.sites, hits, grown)


def _measure(
    load: Workload, pairs: int, work: bytes, place: Placement, show: Callable[[str], None]
) -> _Result:
    program = elf_program(load.program)
    if program is None:
        raise NotMeasured(f"{load.program} is not installed")
    argv = pinned([str(program), *load.arguments], place.tracee)
    show("which functions are cold")
    specs = _cold_specs(argv, load.module or str(program), load, work)
    result = _Result(runs={name: [] for name in _CONTESTANTS})
    growths: list[Mapping[str, int]] = []
    for number in range(pairs):
        show(f"pair {number + 1} of {pairs}")
        if number % 2:
            probed = _probed_run(argv, specs, work)
            plain = _plain_run(argv, work)
        else:
            plain = _plain_run(argv, work)
            probed = _probed_run(argv, specs, work)
        hits = sum(probed.hits.values())
        if hits > _FEW_HITS:
            raise NotMeasured(f"functions that were cold are hit: {dict(probed.hits)}")
        result.hits += hits
        if probed.run.output != plain.output:
            raise NotMeasured("the output is not that of the unprobed run")
        result.sites = probed.sites
        growths.append(probed.grown)
        for name, run in zip(_CONTESTANTS, (plain, probed.run), strict=True):
            result.runs[name].append(run)
    result.memory = dict(max(growths, key=lambda growth: growth["private_dirty"]))
    return result


@functools.cache
def _result(name: str, quick: bool, progress: Callable[[str], None]) -> _Result:
    load = WORKLOADS[name]
    pairs, size = (3, load.size // 6) if quick else (11, load.size)
    try:
        with on_cpu(_PLACE.tracer):
            return _measure(
                load, pairs, load.work(size), _PLACE, lambda text: progress(f"{name}: {text}")
            )
    except NotMeasured as reason:
        return _Result(not_measured=str(reason))


@pytest.mark.parametrize("contestant", _CONTESTANTS)
@pytest.mark.parametrize("measure", _MEASURES)
@pytest.mark.parametrize("program", WORKLOADS)
def test_time(
    program: str,
    measure: str,
    contestant: str,
    benchmark: BenchmarkFixture,
    quick: bool,
    progress: Callable[[str], None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    result = _result(program, quick, progress)
    if result.not_measured is not None:
        not_measured(result.not_measured)
    load = WORKLOADS[program]
    facts: dict[str, object] = {}
    if contestant != _CONTESTANTS[0]:
        ratio = median_with_interval(result.ratios(measure))
        facts = {
            "sites": result.sites,
            "hits": result.hits,
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "ratios": result.ratios(measure),
            "disturbed": ratio.high - ratio.low > WIDE * ratio.median,
        }
    benchmark.group = f"probes that are not hit, {measure} time: {program}"
    replay(
        benchmark,
        [getattr(run, measure) for run in result.runs[contestant]],
        kind="not hit",
        contestant=contestant,
        program=program,
        module=load.module or program,
        measure=measure,
        placement=_PLACE.name,
        cpus=[_PLACE.tracer, _PLACE.tracee],
        **facts,
    )


@pytest.mark.parametrize("program", WORKLOADS)
def test_memory(
    program: str,
    quick: bool,
    figure: Callable[..., None],
    progress: Callable[[str], None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    """What planting adds to the program: pages of code that were copied, and slots."""
    result = _result(program, quick, progress)
    if result.not_measured is not None:
        not_measured(result.not_measured)
    grown = result.memory
    facts = {"kind": "not hit", "sites": result.sites, "program": program}
    for name, value, unit in (
        ("resident memory added", grown["resident"], "bytes"),
        ("private dirty memory added", grown["private_dirty"], "bytes"),
        ("pages of files copied", grown["private_dirty_of_files"] // PAGE, "pages"),
    ):
        figure("probes that are not hit, memory", f"{program}: {name}", value, unit, **facts)
