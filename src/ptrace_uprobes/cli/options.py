"""What the user asked for, as frozen values; `arguments` reads them from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from ptrace_uprobes.output.request import Request

__all__ = ["HandlerReference", "Options", "ProbeOption"]


@dataclass(frozen=True, slots=True)
class HandlerReference:
    """`FILE.py:FUNCTION`."""

    path: str
    function: str


@dataclass(frozen=True, slots=True)
class ProbeOption:
    """One `-e SPEC`, and the `--filter` that belongs to it. A SPEC `@FILE` names a file of
    definitions."""

    spec: str
    filter: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """One command line."""

    pids: tuple[int, ...]
    command: tuple[str, ...]
    """The program to launch; with `merge` and no probes, empty."""
    probes: tuple[ProbeOption, ...]
    request: Request
    handler: HandlerReference | None
    follow_forks: bool
    output: str | None
    format: str
    count: bool
    max_hits: int | None
    duration: float | None
    mechanism: str
    colocate: str
    explain: bool
    emit: str | None
    """`kernel`: print the definitions in that notation instead of a run."""
    trace_marker: bool
    trace_instance: str | None
    """The tracefs directory, or the name of an instance in it, whose trace_marker it is."""
    merge: str | None
    """A saved kernel trace."""
    hits_file: str | None
    """What to merge it with, if not the hits of a run."""
