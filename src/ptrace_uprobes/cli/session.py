"""What every command starts with: an engine on the program, and a probe for each definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ptrace_uprobes as pu
from ptrace_uprobes.cli.diagnostics import warning_lines
from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.cli.probe_list import WantedProbe
from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.output.format import Format
from ptrace_uprobes.output.jsonl import JsonLinesFormat
from ptrace_uprobes.output.request import Request
from ptrace_uprobes.output.text import TextFormat

__all__ = ["FORMATS", "plant", "start_engine"]

FORMATS: dict[str, Callable[[Request], Format]] = {"text": TextFormat, "jsonl": JsonLinesFormat}


def start_engine(options: Options, warn: Callable[[str], None] = warning_lines) -> pu.Engine:
    """Attach to the processes, or launch the command up to its first instruction."""
    if options.pids:
        return pu.attach(
            list(options.pids),
            follow_forks=options.follow_forks,
            mechanism=options.mechanism,
            colocate=options.colocate,
            on_warning=warn,
        )
    return pu.launch(
        list(options.command),
        follow_forks=options.follow_forks,
        mechanism=options.mechanism,
        colocate=options.colocate,
        on_warning=warn,
    )


def plant(
    engine: pu.Engine,
    wanted: Sequence[WantedProbe],
    handler_for: Callable[[Definition], Callable[[pu.Hit], Any] | None],
) -> list[pu.Probe]:
    """The probes; raises the first error, and then no COMMAND has begun."""
    try:
        return [
            engine.probe(
                one.definition.text, handler=handler_for(one.definition), filter=one.filter
            )
            for one in wanted
        ]
    except pu.UprobesError:
        with suppress(pu.EngineStopped):  # it may have ended by itself
            engine.kill()
        raise
