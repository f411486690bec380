"""--emit kernel: the probes as lines for the kernel's uprobe_events; the program does not run."""

from __future__ import annotations

from contextlib import suppress

import ptrace_uprobes as pu
from ptrace_uprobes.cli.diagnostics import warning_lines
from ptrace_uprobes.cli.kernel_events import kernel_lines
from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.cli.probe_list import wanted_probes
from ptrace_uprobes.cli.session import plant, start_engine
from ptrace_uprobes.cli.stop_signals import StopSignals
from ptrace_uprobes.linux.maps import Mapping, read_maps
from ptrace_uprobes.output.sink import Sink

__all__ = ["emit"]


def emit(options: Options, signals: StopSignals) -> int:
    """Print the lines; the result is the exit status."""
    wanted = wanted_probes(options)
    with signals.deferred(), start_engine(options) as engine:
        plant(engine, wanted, lambda definition: None)
        plans = engine.explain()
        mappings = _mappings(options.pids or (engine.pid,))
        not_found = engine.result().not_found
        engine.kill()
    lines = list(kernel_lines(plans, mappings, warning_lines))
    with (
        Sink.over(1, "standard output") if options.output is None else Sink.open(options.output)
    ) as sink:
        for line in lines:
            sink.write(f"{line}\n")
    sink.check()
    for error in not_found.values():
        raise error
    return 0


def _mappings(pids: tuple[int | None, ...]) -> list[Mapping]:
    mappings: list[Mapping] = []
    for pid in pids:
        if pid is not None:
            with suppress(pu.NoSuchProcess, PermissionError):
                mappings += read_maps(pid)
    return mappings
