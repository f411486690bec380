"""What all contestants of a measurement do alike: count the executions of one instruction."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from pathlib import Path

from tests.support.build import build_target

from bench.elf import file_offset, symbol_addresses
from bench.machine import cpus

__all__ = ["SITES", "Job", "Placement", "Site", "Task", "one_cpu", "placements", "sites_program"]

_SOURCE = Path(__file__).resolve().parent / "targets" / "sites.c"
WARM_UP_CALLS = 200
"""Before its clock starts the target makes these: WARM_UP of targets/sites.c."""


@dataclass(frozen=True, slots=True)
class Site:
    """An instruction of targets/sites.c."""

    name: str
    instruction: str
    kernel_name: str = ""
    """What the kernel's own benchmark calls a probe there (tools/perf/bench, selftests/bpf)."""
    at_entry: bool = True
    """It is the first instruction of its function."""

    @property
    def function(self) -> str:
        return f"hot_{self.name}"

    @property
    def address(self) -> int:
        return symbol_addresses(sites_program())[f"site_{self.name}"]

    @property
    def offset(self) -> int:
        """In the file, as the kernel's uprobe_events want it."""
        return file_offset(sites_program(), self.address)


SITES = {
    site.name: site
    for site in (
        Site("endbr", "endbr64"),
        Site("nop", "nop", "uprobe-nop"),
        Site("push", "push %rbx", "uprobe-push"),
        Site("ret", "ret", "uprobe-ret"),
        Site("nop5", "nopl 0x0(%rax,%rax,1)", "uprobe-nop5"),
        Site("load", "mov (%rsi),%rax"),
        Site("load_rip", "mov counter(%rip),%rax"),
        Site("call", "call leaf"),
        Site("jcc", "jne 1f", at_entry=False),
        Site("syscall", "syscall", at_entry=False),
        Site("lock", "lock incq counter(%rip)"),
        Site("avx", "vmovdqu (%rsi),%xmm0"),
    )
}


class Task(enum.Enum):
    """What is done at each hit."""

    COUNT = "count"
    """It is counted."""
    ARGUMENT = "argument"
    """It is counted, and the function's first argument read and added up."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which CPU the tracer is bound to, and which the tracee."""

    name: str
    tracer: int
    tracee: int


@dataclass(frozen=True, slots=True)
class Job:
    site: Site
    task: Task
    calls: int
    """That the target makes with its clock running; `WARM_UP_CALLS` come before."""
    placement: Placement

    @property
    def expected_hits(self) -> int:
        return self.calls + WARM_UP_CALLS

    @property
    def expected_sum(self) -> int:
        """Of the first arguments of all calls."""
        return sum(n * (n + 1) // 2 for n in (self.calls, WARM_UP_CALLS))


def one_cpu() -> Placement:
    first = cpus()[0]
    return Placement("one CPU", first, first)


def placements() -> list[Placement]:
    """On one CPU, and on two where there are two."""
    available = cpus()
    if len(available) < 2:
        return [one_cpu()]
    return [one_cpu(), Placement("two CPUs", available[0], available[1])]


@functools.cache
def sites_program() -> Path:
    return build_target(_SOURCE, "-O2", "-no-pie", "-fno-pie")
