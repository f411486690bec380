"""One name in a file of 100,000 symbols, beside `nm FILE | grep NAME`.

Interleaved, one of each in turn and backwards in every other, on one CPU, on one file in the page
cache; the ratio is to the `nm | grep` of the same turn. The promise: under 5 times `nm | grep`, and
the same name again is free. Both sides are processes in the first comparison: with the
interpreter's start and the import of what finds symbols, as a command has it. In the others ours is
a call in a process that runs already, as in a traced program's life: there a file is opened anew,
or was opened before.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NoReturn

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import WIDE
from bench.interval import median_with_interval
from bench.job import one_cpu
from bench.made_programs import SYMBOLS, many_symbols, symbol_name
from bench.program import on_cpu
from bench.replay import CLOCK, replay
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.symbols.source import FileSource

_GROUP = f"one name of {SYMBOLS:,}"
pytestmark = pytest.mark.benchmark(timer=CLOCK, group=_GROUP)

_NM = "nm FILE | grep NAME, a process"
_FRESH = "ptrace_uprobes, a process: python starts, imports, finds it"
_STARTED = "of which: python starts and does nothing"
_OPENED = "ptrace_uprobes, in a process: the file is opened, the name found"
_OTHER = "a second name in the same file"
_SAME = "the same name again"
_THOUSAND = "a thousand names, each"
_CONTESTANTS = (_NM, _FRESH, _STARTED, _OPENED, _OTHER, _SAME, _THOUSAND)
_PLACE = one_cpu()
_GOALS = {_FRESH: "under 5", _SAME: "free"}
_FRESH_CODE = (
    "import sys; from ptrace_uprobes.symbols.image import open_image;"
    "found = open_image(sys.argv[1]).lookup(sys.argv[2]); print(hex(found[0].address))"
)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _printed(command: Sequence[str]) -> str:
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment())
    return result.stdout


@functools.cache
def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _open(path: str, name: str) -> Image:
    image = Image(FileSource(path, path), path)
    _look(image, name)
    return image


def _look(image: Image, name: str) -> None:
    if len(image.lookup(name)) != 1:
        raise AssertionError(f"{name} is not found")


def _thousand_names(path: str) -> float:
    """Seconds a name, when a thousand are asked for one after the other."""
    image = Image(FileSource(path, path), path)
    names = [symbol_name(number) for number in random.Random(2).sample(range(SYMBOLS), 1000)]

    def look() -> None:
        for name in names:
            _look(image, name)

    return _seconds(look) / len(names)


@functools.cache
def _durations(turns: int, progress: Callable[[str], None]) -> dict[str, list[float]]:
    path = str(many_symbols())
    picked = random.Random(1).sample(range(SYMBOLS), 2 * turns)
    took: dict[str, list[float]] = {name: [] for name in _CONTESTANTS}
    _check_same_answer(path, symbol_name(picked[0]))
    for turn in range(turns):
        progress(f"look-up: turn {turn + 1} of {turns}")
        name, second = (symbol_name(number) for number in picked[2 * turn : 2 * turn + 2])
        for contestant, seconds in _turn(path, name, second, backwards=turn % 2 == 1):
            took[contestant].append(seconds)
    return took


def _turn(path: str, name: str, second: str, backwards: bool) -> Iterator[tuple[str, float]]:
    """Seconds of each contestant."""
    grep = ["sh", "-c", f"nm {path} | grep {name}"]
    fresh = [sys.executable, "-c", _FRESH_CODE, path, name]
    steps: list[Callable[[], Mapping[str, float]]] = [
        lambda: {_NM: _seconds(partial(_printed, grep))},
        lambda: {_FRESH: _seconds(partial(_printed, fresh))},
        lambda: {_STARTED: _seconds(partial(_printed, [sys.executable, "-c", "pass"]))},
        lambda: {_OPENED: _seconds(partial(_open, path, name))},
        lambda: _in_open_file(path, name, second),
        lambda: {_THOUSAND: _thousand_names(path)},
    ]
    for step in reversed(steps) if backwards else steps:
        yield from step().items()


def _in_open_file(path: str, name: str, second: str) -> Mapping[str, float]:
    image = _open(path, name)
    look = partial(image.lookup, second)
    return {_OTHER: _seconds(look), _SAME: _seconds(look)}


def _check_same_answer(path: str, name: str) -> None:
    """Also what brings the file into the page cache."""
    theirs = _printed(["sh", "-c", f"nm {path} | grep {name}"]).split()[0]
    ours = _printed([sys.executable, "-c", _FRESH_CODE, path, name])
    assert int(ours, 16) == int(theirs, 16)


@pytest.mark.parametrize("contestant", _CONTESTANTS)
def test_lookup(
    contestant: str,
    benchmark: BenchmarkFixture,
    quick: bool,
    progress: Callable[[str], None],
    not_measured: Callable[[str], NoReturn],
) -> None:
    if shutil.which("nm") is None:
        not_measured("nm is not installed")
    with on_cpu(_PLACE.tracer):
        took = _durations(4 if quick else 15, progress)
    ratios = [ours / theirs for ours, theirs in zip(took[contestant], took[_NM], strict=True)]
    ratio = median_with_interval(ratios)
    replay(
        benchmark,
        took[contestant],
        kind="look-up",
        contestant=contestant,
        symbols=SYMBOLS,
        placement=_PLACE.name,
        cpus=[_PLACE.tracer, _PLACE.tracee],
        bytes=os.path.getsize(many_symbols()),
        ratio=ratio.median,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        ratios=ratios,
        disturbed=ratio.high - ratio.low > WIDE * ratio.median,
        goal=_GOALS.get(contestant, ""),
    )
