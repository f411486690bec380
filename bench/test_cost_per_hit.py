"""What one hit costs, instruction by instruction: each of our plans, the kernel's uprobe, and the
plain-C loops that bound what ptrace can do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest

from bench.contest import Measurement, Plan, run_contest
from bench.contestants.contestant import Contestant
from bench.contestants.kernel_uprobe import TracefsUprobe
from bench.contestants.ours import Ours
from bench.contestants.plain import LOOPS, NoProbe
from bench.job import SITES, Task, one_cpu
from bench.replay import CLOCK

pytestmark = pytest.mark.benchmark(timer=CLOCK)

_CONTESTANTS: tuple[Contestant, ...] = (
    NoProbe(),
    *LOOPS,
    *(Ours("count", mechanism) for mechanism in ("boost", "emulate", "step")),
    TracefsUprobe(),
)
_QUICK_SITES = ("nop", "push", "load", "nop5")


@functools.cache
def _contest(
    contestants: tuple[Contestant, ...], site: str, plan: Plan, progress: Callable[[str], None]
) -> dict[str, Measurement]:
    def show(text: str) -> None:
        progress(f"{site}: {text}")

    return run_contest(contestants, SITES[site], Task.COUNT, one_cpu(), plan, show)


@pytest.mark.parametrize("contestant", [each.name for each in _CONTESTANTS])
@pytest.mark.parametrize(
    "site",
    [
        pytest.param(site, marks=[] if site in _QUICK_SITES else [pytest.mark.full_only])
        for site in SITES
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
    result = _contest(chosen(_CONTESTANTS), site, plan, progress)[contestant]
    book(
        result,
        f"one hit at: {SITES[site].instruction}",
        instruction=SITES[site].instruction,
        kernel_name=SITES[site].kernel_name,
    )
