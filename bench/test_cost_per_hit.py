"""What one hit costs, instruction by instruction: each of our plans, and the kernel's uprobe by
each front of it. At one instruction also the plain-C loops that bound what ptrace can do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest

from bench.contest import Measurement, Plan, run_contest
from bench.contestants.contestant import Contestant
from bench.contestants.kernel_fronts import Bpftrace, PerfStat
from bench.contestants.kernel_uprobe import TracefsUprobe
from bench.contestants.ours import Ours
from bench.contestants.plain import LOOPS, NoProbe
from bench.job import SITES, Task, one_cpu
from bench.replay import CLOCK

pytestmark = pytest.mark.benchmark(timer=CLOCK)

_CONTESTANTS: tuple[Contestant, ...] = (
    NoProbe(),
    *(Ours("count", mechanism) for mechanism in ("boost", "emulate", "step")),
    TracefsUprobe(),
    PerfStat(),
    Bpftrace(),
)
_WORKS: tuple[Contestant, ...] = tuple(
    Ours(work)
    for work in ("handler", "registers", "argument", "fetchargs", "filter", "return", "stack")
)
_WORK_ROUNDS = 3
"""What they add does not depend on the instruction: test_tasks.py measures it well, at one."""
_LOOPS_AT = "endbr"
"""The one instruction that the loops know."""
_QUICK_SITES = ("endbr", "nop", "load", "nop5")
_NOT_IN_QUICK = (PerfStat.name, Bpftrace().name)


@functools.cache
def _contest(
    contestants: tuple[Contestant, ...], site: str, plan: Plan, progress: Callable[[str], None]
) -> dict[str, Measurement]:
    def show(text: str) -> None:
        progress(f"{site}: {text}")

    return run_contest(contestants, SITES[site], Task.COUNT, one_cpu(), plan, show)


def _of(site: str) -> tuple[Contestant, ...]:
    return (*LOOPS, *_CONTESTANTS) if site == _LOOPS_AT else _CONTESTANTS


def _is_quick(site: str, contestant: Contestant) -> bool:
    return site in _QUICK_SITES and contestant.name not in _NOT_IN_QUICK


@pytest.mark.parametrize(
    ("site", "contestant"),
    [
        pytest.param(
            site,
            each.name,
            marks=[] if _is_quick(site, each) else [pytest.mark.full_only],
        )
        for site in SITES
        for each in _of(site)
    ],
)
def test_instruction(
    site: str,
    contestant: str,
    plan: Plan,
    progress: Callable[[str], None],
    book: Callable[..., None],
    chosen: Callable[[Sequence[Contestant]], tuple[Contestant, ...]],
) -> None:
    place = SITES[site]
    result = _contest(chosen(_of(site)), site, plan, progress)[contestant]
    book(
        result,
        f"one hit at: {place.instruction}",
        instruction=place.instruction,
        kernel_name=place.kernel_name,
    )


@pytest.mark.full_only
@pytest.mark.parametrize("contestant", [each.name for each in _WORKS])
@pytest.mark.parametrize("site", SITES)
def test_work_at_instruction(
    site: str,
    contestant: str,
    plan: Plan,
    progress: Callable[[str], None],
    book: Callable[..., None],
    chosen: Callable[[Sequence[Contestant]], tuple[Contestant, ...]],
) -> None:
    """The same work at other instructions: whether one of them is treated otherwise."""
    short = Plan(_WORK_ROUNDS, plan.seconds)
    result = _contest(chosen(_WORKS), site, short, progress)[contestant]
    book(result, "the same work at each instruction", kind="work at instructions")
