"""--explain: how each probe's instruction would be executed; the program does not run."""

from __future__ import annotations

from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.cli.probe_list import wanted_probes
from ptrace_uprobes.cli.session import FORMATS, plant, start_engine
from ptrace_uprobes.cli.stop_signals import StopSignals
from ptrace_uprobes.output.sink import Sink

__all__ = ["explain"]


def explain(options: Options, signals: StopSignals) -> int:
    """Print the plans; the result is the exit status."""
    form = FORMATS[options.format](options.request)
    wanted = wanted_probes(options)
    # To standard output: there is no program's output that it could be mixed with.
    with (
        Sink.over(1, "standard output") if options.output is None else Sink.open(options.output)
    ) as sink:
        with signals.deferred(), start_engine(options) as engine:
            plant(engine, wanted, lambda definition: None)
            plans = engine.explain()
            not_found = engine.result().not_found
            engine.kill()
        for plan in plans:
            sink.write(form.plan(plan))
    sink.check()
    for error in not_found.values():
        raise error
    return 0
