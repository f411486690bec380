"""Hits, probes and plans without a process."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import cast

from ptrace_uprobes.engine import Result, SitePlan
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.probe import Hit, Probe

__all__ = ["FakeSite", "a_hit", "a_plan", "a_probe", "a_result"]


@dataclass(frozen=True)
class _FakeHit:
    label: str
    address: int
    time_ns: int
    pid: int
    tid: int


def a_hit(
    label: str = "malloc",
    address: int = 0x7F00_0000_1230,
    time_ns: int = 12_345_678_901_234,
    pid: int | None = None,
    tid: int | None = None,
) -> Hit:
    """A hit of this very thread, whose files in /proc are there to be read."""
    return cast(
        Hit,
        _FakeHit(
            label,
            address,
            time_ns,
            os.getpid() if pid is None else pid,
            threading.get_native_id() if tid is None else tid,
        ),
    )


@dataclass(frozen=True)
class FakeSite:
    """What `Probe.sites` holds."""

    label: str
    module: str
    hits: int
    missed: int = 0


@dataclass(frozen=True, eq=False)
class _FakeProbe:
    spec: str
    hits: int = 0
    missed: int = 0
    missed_causes: dict[str, int] = field(default_factory=dict)
    handler_errors: int = 0
    sites: list[FakeSite] = field(default_factory=list)


def a_probe(
    spec: str,
    *sites: FakeSite,
    missed_causes: dict[str, int] | None = None,
    handler_errors: int = 0,
) -> Probe:
    causes = missed_causes or {}
    return cast(
        Probe,
        _FakeProbe(
            spec,
            sum(site.hits for site in sites),
            sum(causes.values()),
            causes,
            handler_errors,
            list(sites),
        ),
    )


@dataclass(frozen=True)
class _FakeResult:
    exit_status: int | None
    ended: str
    hits: dict[Probe, int]
    missed: dict[Probe, int]
    mechanisms: dict[str, int]
    not_found: dict[Probe, UprobesError]


def a_result(
    *probes: Probe,
    exit_status: int | None = 0,
    ended: str = "exited",
    mechanisms: dict[str, int] | None = None,
    not_found: dict[Probe, UprobesError] | None = None,
) -> Result:
    return cast(
        Result,
        _FakeResult(
            exit_status,
            ended,
            {probe: probe.hits for probe in probes},
            {probe: probe.missed for probe in probes},
            {"boost": 1} if mechanisms is None else mechanisms,
            not_found or {},
        ),
    )


@dataclass(frozen=True)
class _FakePlan:
    probe: Probe
    address: int
    code: bytes
    instruction: str
    mechanism: str
    reason: str | None
    slot: int | None
    label: str
    module: str


def a_plan(
    mechanism: str = "boost", reason: str | None = None, slot: int | None = 0x1000
) -> SitePlan:
    return cast(
        SitePlan,
        _FakePlan(
            a_probe("libc:malloc"),
            0x7F00_0000_1230,
            b"\xf3\x0f\x1e\xfa",  # endbr64
            "endbr64",
            mechanism,
            reason,
            slot,
            "malloc",
            "/usr/lib/libc.so.6",
        ),
    )
