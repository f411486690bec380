"""The command without --explain: run the program, print its hits, then the summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ptrace_uprobes as pu
from ptrace_uprobes.cli.handler_file import load_handler
from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.cli.session import FORMATS, plant, start_engine
from ptrace_uprobes.cli.stop_signals import StopSignals
from ptrace_uprobes.output.format import Format
from ptrace_uprobes.output.sink import Sink
from ptrace_uprobes.output.summary import summarize

__all__ = ["record"]

_SIGNALLED = 128

Handler = Callable[[pu.Hit], Any]


def record(options: Options, signals: StopSignals) -> int:
    """Probe until the program, the user or a limit ends it; the result is the exit status."""
    user_handler = None if options.handler is None else load_handler(options.handler)
    form = FORMATS[options.format]()
    # Opened first: a COMMAND must not have begun when the output turns out not to be writable.
    with _sink(options) as sink:

        def handler_for(spec: str) -> Handler | None:
            return user_handler if options.count else _printing(form, spec, sink, user_handler)

        with signals.deferred(), start_engine(options) as engine:
            sink.on_failure = engine.interrupt
            sink.flush_regularly()
            with signals.calling(engine.interrupt, sink.hasten):
                try:
                    plant(engine, options, handler_for)
                except pu.EngineStopped:
                    # A stop signal, or the program's own end, came before its probes.
                    if signals.received is None and engine.result().exit_status is None:
                        raise
                result = engine.run(timeout=options.duration, max_hits=options.max_hits)
            sink.on_failure = None
        sink.write(form.summary(summarize(result, engine.probes, options.mechanism)))
    status = _exit_status(options, signals, engine, result)
    sink.check()
    return status


def _sink(options: Options) -> Sink:
    if options.output is None:
        return Sink.over(2, "standard error")
    return Sink.open(options.output)


def _printing(form: Format, spec: str, sink: Sink, user_handler: Handler | None) -> Handler:
    """A handler that writes the hit's line, and calls the user's handler after it."""
    format_hit = form.hit_formatter(spec)
    write = sink.write

    def print_hit(hit: pu.Hit) -> None:
        write(format_hit(hit))

    def print_and_call(hit: pu.Hit) -> None:
        write(format_hit(hit))
        user_handler(hit)  # type: ignore[misc]  # only used when there is one

    return print_hit if user_handler is None else print_and_call


def _exit_status(
    options: Options, signals: StopSignals, engine: pu.Engine, result: pu.Result
) -> int:
    """COMMAND's own where there is one, even if that means to wait for it unprobed.

    Going before it would take the terminal from it, or leave a script without its status. But
    a user who wants us to end is not kept waiting; a stop signal during the wait raises.
    """
    if not options.command:
        return 0
    if result.exit_status is not None:
        return result.exit_status
    if signals.received is not None:
        return _SIGNALLED + signals.received
    status = engine.wait_command()
    return 0 if status is None else status
