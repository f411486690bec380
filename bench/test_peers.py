"""The same work at the same probe by every tool that a user could pick: count the hits, and, where
it can, read the first argument.

At a five-byte nop, which every one of them can probe: the kernel in its fastest way, tools that
patch a jump in without a stop. test_cost_per_hit.py has what other instructions cost the kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest

from bench.contest import Measurement, Plan, run_contest
from bench.contestants.contestant import Contestant
from bench.contestants.from_pypi import frida, frida_returns, libdebug, python_ptrace
from bench.contestants.gdb import Gdb, GdbserverTracepoint
from bench.contestants.kernel_fronts import Bpftrace, PerfStat, PerfTrace
from bench.contestants.kernel_uprobe import TracefsUprobe
from bench.contestants.lldb import Lldb
from bench.contestants.ours import Ours
from bench.contestants.tracers import Ltrace, Uftrace
from bench.contestants.unavailable import UNAVAILABLE
from bench.job import SITES, Placement, Task, placements
from bench.replay import CLOCK

pytestmark = pytest.mark.benchmark(timer=CLOCK)

_SITE = "nop5"
_RETURN_SITES = ("nop", "push", "ret", "nop5")
"""Those of the kernel's own uretprobe benchmarks."""
_IN_QUICK: tuple[Contestant, ...] = (
    Ours(),
    Gdb("python"),
    Lldb("python"),
    libdebug,
    Ltrace(),
    frida[1],
    TracefsUprobe(),
)
_CONTESTANTS: tuple[Contestant, ...] = (
    *_IN_QUICK,
    Gdb("commands"),
    Gdb("dprintf"),
    Gdb("ignore"),
    GdbserverTracepoint(),
    Lldb("auto"),
    python_ptrace,
    frida[0],
    Uftrace(),
    PerfStat(),
    Bpftrace(),
    PerfTrace(),
    *UNAVAILABLE,
)
_RETURNS_IN_QUICK: tuple[Contestant, ...] = (
    Ours("return"),
    TracefsUprobe("r"),
    Bpftrace("uretprobe"),
    Ltrace(),
    frida_returns[1],
)
_RETURNS: tuple[Contestant, ...] = (
    *_RETURNS_IN_QUICK,
    Gdb("finish"),
    frida_returns[0],
    Uftrace(),
)
_PLACEMENTS = {place.name: place for place in placements()}


def _inside(contestant: Contestant) -> bool:
    """It works within the program, or the kernel."""
    return contestant.stops_per_hit == 0.0


@functools.cache
def _contest(
    contestants: tuple[Contestant, ...],
    site: str,
    task: Task,
    placement: Placement,
    plan: Plan,
    progress: Callable[[str], None],
) -> dict[str, Measurement]:
    def show(text: str) -> None:
        progress(f"{task.value}, {placement.name}: {text}")

    return run_contest(contestants, SITES[site], task, placement, plan, show)


def _names(contestants: tuple[Contestant, ...]) -> list[object]:
    return [
        pytest.param(
            each.name,
            marks=[] if each in (*_IN_QUICK, *_RETURNS_IN_QUICK) else [pytest.mark.full_only],
        )
        for each in contestants
    ]


@pytest.mark.parametrize("contestant", _names(_CONTESTANTS))
@pytest.mark.parametrize(
    ("task", "placement"),
    [
        pytest.param(
            task,
            place,
            marks=[] if place == "one CPU" and task is Task.COUNT else [pytest.mark.full_only],
        )
        for place in _PLACEMENTS
        for task in (Task.COUNT, Task.ARGUMENT)
        if task is Task.COUNT or place == "one CPU"
    ],
)
def test_peer(
    task: Task,
    placement: str,
    contestant: str,
    plan: Plan,
    progress: Callable[[str], None],
    book: Callable[..., None],
    chosen: Callable[[Sequence[Contestant]], tuple[Contestant, ...]],
) -> None:
    place = _PLACEMENTS[placement]
    tools = tuple(
        each for each in _CONTESTANTS if place.tracer == place.tracee or not _inside(each)
    )
    if contestant not in {each.name for each in tools}:
        pytest.skip("it has no tracer that could be on another CPU")
    result = _contest(chosen(tools), _SITE, task, place, plan, progress)[contestant]
    what = "the hits counted" if task is Task.COUNT else "the first argument read"
    book(result, f"peers: {what}, {placement}", kind="peer")


@pytest.mark.parametrize("contestant", _names(_RETURNS))
@pytest.mark.parametrize(
    "site",
    [
        pytest.param(site, marks=[] if site == _SITE else [pytest.mark.full_only])
        for site in _RETURN_SITES
    ],
)
def test_return(
    site: str,
    contestant: str,
    plan: Plan,
    progress: Callable[[str], None],
    book: Callable[..., None],
    chosen: Callable[[Sequence[Contestant]], tuple[Contestant, ...]],
) -> None:
    place = _PLACEMENTS["one CPU"]
    result = _contest(chosen(_RETURNS), site, Task.COUNT, place, plan, progress)[contestant]
    what = f"a call and its return, the function begins with `{SITES[site].instruction}`"
    book(result, f"peers: {what} (uretprobe-{site}), one CPU", kind="return")
