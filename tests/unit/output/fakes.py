"""Hits, probes and plans without a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.definition.definition import Definition, parse_definition
from ptrace_uprobes.engine import Result, SitePlan
from ptrace_uprobes.errors import MemoryFault, UprobesError
from ptrace_uprobes.probe import Hit, Probe

__all__ = ["FakeFetcher", "FakeFrame", "FakeSite", "FakeStack", "a_hit", "a_plan", "a_probe"]
__all__ += ["a_result"]


@dataclass(frozen=True)
class FakeFetcher:
    """Prints numbers as the kernel prints x64, and strings in quotes."""

    names: tuple[str, ...]

    def as_text(self, values: tuple[int | str, ...]) -> str:
        return " ".join(
            f"{name}={value:#x}" if isinstance(value, int) else f'{name}="{value}"'
            for name, value in zip(self.names, values, strict=True)
        )

    def as_json(self, values: tuple[int | str, ...]) -> dict[str, object]:
        return dict(zip(self.names, values, strict=True))


@dataclass(frozen=True)
class FakeFrame:
    address: int
    symbol: str | None
    module: str | None


@dataclass(frozen=True)
class FakeStack:
    frames: tuple[FakeFrame, ...]
    cut: str | None = None


@dataclass(frozen=True)
class _FakeRegisters:
    values: Mapping[str, int]

    def __getattr__(self, name: str) -> int:
        return self.values.get(name, 0)

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, kernel) for name, kernel in X86_64.registers}


@dataclass(frozen=True)
class _FakeHit:
    label: str
    address: int
    time_ns: int
    pid: int
    tid: int
    function: int
    fetcher: FakeFetcher | None
    values: tuple[int | str, ...]
    registers: _FakeRegisters
    memory: Mapping[int, bytes]
    frames: FakeStack
    return_value: int

    def argument(self, number: int) -> int:
        return self.registers.rdi

    def read(self, address: int, size: int) -> bytes:
        data = self.memory.get(address, b"")[:size]
        if len(data) < size:
            raise MemoryFault(address, size)
        return data

    def stack(self) -> FakeStack:
        return self.frames


def a_hit(
    label: str = "malloc",
    address: int = 0x7F00_0000_1230,
    time_ns: int = 12_345_678_901_234,
    pid: int | None = None,
    tid: int | None = None,
    function: int = 0,
    arguments: Mapping[str, int | str] | None = None,
    registers: Mapping[str, int] | None = None,
    memory: Mapping[int, bytes] | None = None,
    frames: FakeStack | None = None,
    return_value: int = 0,
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
            function,
            None if arguments is None else FakeFetcher(tuple(arguments)),
            () if arguments is None else tuple(arguments.values()),
            _FakeRegisters(registers or {}),
            memory or {},
            frames or FakeStack(()),
            return_value,
        ),
    )


@dataclass(frozen=True)
class FakeSite:
    """What `Probe.sites` holds."""

    label: str
    module: str
    hits: int
    missed: int = 0
    unreturned: int = 0


@dataclass(frozen=True, eq=False)
class _FakeProbe:
    spec: str
    hits: int = 0
    missed: int = 0
    missed_causes: dict[str, int] = field(default_factory=dict)
    handler_errors: int = 0
    sites: list[FakeSite] = field(default_factory=list)
    filter_text: str = ""
    filtered: int = 0
    unreturned_causes: dict[str, int] = field(default_factory=dict)

    @property
    def definition(self) -> Definition:
        return parse_definition(self.spec)

    @property
    def unreturned(self) -> int:
        return sum(self.unreturned_causes.values())


def a_probe(
    spec: str,
    *sites: FakeSite,
    missed_causes: dict[str, int] | None = None,
    handler_errors: int = 0,
    filter_text: str = "",
    filtered: int = 0,
    unreturned_causes: dict[str, int] | None = None,
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
            filter_text,
            filtered,
            unreturned_causes or {},
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
    file_offset: int | None
    definition: Definition


def a_plan(
    mechanism: str = "boost",
    reason: str | None = None,
    slot: int | None = 0x1000,
    *,
    spec: str = "libc:malloc",
    filter_text: str = "",
    label: str = "malloc",
    module: str = "/usr/lib/libc.so.6",
    file_offset: int | None = 0x1230,
) -> SitePlan:
    probe = a_probe(spec, filter_text=filter_text)
    return cast(
        SitePlan,
        _FakePlan(
            probe,
            0x7F00_0000_1230,
            b"\xf3\x0f\x1e\xfa",  # endbr64
            "endbr64",
            mechanism,
            reason,
            slot,
            label,
            module,
            file_offset,
            probe.definition,
        ),
    )
