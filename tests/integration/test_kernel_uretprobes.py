"""What the kernel's uretprobes do to programs that leave functions in unusual ways.

docs/kernel_uretprobes.md is this test's table. It states facts about the kernel, not about us:
on a kernel that does better, this test fails, and the table is out of date.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.build import build_target
from tests.support.kernel_returns import Seen, kernel_returns
from tests.support.other_compilers import build_go
from tests.support.target import parse_report

_TABLE = Path(__file__).parents[2] / "docs" / "kernel_uretprobes.md"

RIGHT, LOSES, CHANGES, KILLS = "right", "loses", "changes", "kills"


@dataclass(frozen=True)
class Case:
    source: str
    arguments: tuple[str, ...]
    verdict: str
    flags: tuple[str, ...] = ()
    functions: tuple[str, ...] = ("probed",)

    def __str__(self) -> str:
        stem = self.source.partition(".")[0].removeprefix("returns_")
        return "-".join((stem, *self.arguments))

    def build(self) -> Path:
        if self.source.endswith(".go"):
            return build_go(self.source)
        return build_target(self.source, *self.flags)


_TAIL = "returns_tail_calls.c"
_CXX = "returns_exceptions.cc"
_GO = "returns_goroutines.go"

CASES = [
    Case("returns_recursion.c", ("60", "3"), CHANGES),
    Case("returns_recursion.c", ("10000", "2"), LOSES),
    Case(_TAIL, ("10", "10"), RIGHT, ("-O2",), ("forward", "goal", "is_even", "is_odd")),
    Case(_TAIL, ("10", "200"), LOSES, ("-O2",), ("is_even", "is_odd")),
    Case(_TAIL, ("10", "1"), LOSES, ("-O2",), ("locked",)),
    Case("returns_jumps.c", ("5",), RIGHT, ("-O2",), ("itself", "chooses", "walks")),
    *(
        Case("returns_longjmp.c", (mode,), RIGHT)
        for mode in ("depths", "frames", "handler", "stack")
    ),
    *(Case("returns_signals.c", (mode,), RIGHT) for mode in ("same", "stack", "nested", "timer")),
    Case("returns_signals.c", ("above",), KILLS),
    *(Case(_CXX, (mode,), KILLS, ("-lstdc++",)) for mode in ("through", "inside", "rethrow")),
    Case(_CXX, ("never",), RIGHT, ("-lstdc++",)),
    Case(_CXX, ("thread",), CHANGES, ("-lstdc++",)),
    Case("returns_coroutines.c", ("8", "5"), KILLS),
    *(
        Case("returns_contexts.c", (mode, "10"), RIGHT)
        for mode in ("setcontext", "altstack", "abandoned")
    ),
    Case("returns_contexts.c", ("builtin", "10"), RIGHT, (), ("jumps",)),
    Case("returns_contexts.c", ("migrated", "10"), KILLS),
    *(
        Case("returns_threads.c", (mode,), RIGHT)
        for mode in ("none", "exit", "cancel", "async", "process")
    ),
    *(Case("returns_forks.c", (mode,), RIGHT) for mode in ("fork", "vfork")),
    *(Case(_GO, (mode,), KILLS, (), ("main.probed",)) for mode in ("grow", "migrate", "panic")),
]


def _run(program: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _own_counts(report: dict[str, int], function: str) -> Seen:
    return Seen(*(report.get(f"{function}_{what}", 0) for what in ("calls", "returns", "sum")))


def _others(report: dict[str, int]) -> dict[str, int]:
    """What a program says of itself besides counting calls."""
    return {k: v for k, v in report.items() if not k.endswith(("_calls", "_returns", "_sum"))}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_kernels_return_probes_do(case: Case) -> None:
    # GIVEN a program that counts its calls, and how it ends by itself
    program = case.build()
    plain = _run(program, case.arguments)

    # WHEN the kernel's probes stand at the entry and the return of its functions
    with kernel_returns(program, case.functions) as seen:
        watched = _run(program, case.arguments)
        counts = seen()

    # THEN it ends as before or not, and the counts are its own or not
    own = {name: _own_counts(parse_report(watched.stdout), name) for name in case.functions}
    if watched.returncode != plain.returncode:
        verdict = KILLS
    elif _others(parse_report(watched.stdout)) != _others(parse_report(plain.stdout)):
        verdict = CHANGES if counts == own else LOSES
    else:
        verdict = RIGHT if counts == own else LOSES
    assert verdict == case.verdict, f"{watched.stderr}\n{counts}\n{own}"


def test_the_table_has_a_row_for_each_case() -> None:
    rows = [
        [cell.strip(" `*") for cell in line.split("|")[1:-1]]
        for line in _TABLE.read_text().splitlines()
        if line.startswith("| `")
    ]
    assert {row[0]: row[2] for row in rows} == {str(case): case.verdict for case in CASES}
