"""The command without --explain: run the program, print its hits, then the summary."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import ptrace_uprobes as pu
from ptrace_uprobes.cli.diagnostics import warning_lines
from ptrace_uprobes.cli.handler_file import load_handler
from ptrace_uprobes.cli.merge import check_mergeable, merge_into
from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.cli.probe_list import WantedProbe, wanted_probes
from ptrace_uprobes.cli.session import FORMATS, plant, start_engine
from ptrace_uprobes.cli.stop_signals import StopSignals
from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.output.format import Format
from ptrace_uprobes.output.sink import Sink
from ptrace_uprobes.output.summary import summarize
from ptrace_uprobes.output.text import TextFormat
from ptrace_uprobes.output.trace_marker import TraceMarker

__all__ = ["record"]

_SIGNALLED = 128

Handler = Callable[[pu.Hit], Any]


def record(options: Options, signals: StopSignals) -> int:
    """Probe until the program, the user or a limit ends it; the result is the exit status."""
    user_handler = None if options.handler is None else load_handler(options.handler)
    wanted = wanted_probes(options)
    # Opened first: a COMMAND must not have begun when the output turns out not to be writable.
    if options.merge is not None and options.output is not None:
        check_mergeable(options.output, options.merge)
    with ExitStack() as outputs:
        marker = _marker(options, outputs)
        sink = outputs.enter_context(_sink(options))
        engine, result = _run(options, signals, wanted, sink, marker, user_handler)
    status = _exit_status(options, signals, engine, result)
    sink.check()
    if options.merge is not None and options.output is not None:
        with signals.abandoning():
            merge_into(options.merge, options.output)
    return status


def _run(
    options: Options,
    signals: StopSignals,
    wanted: list[WantedProbe],
    sink: Sink,
    marker: TraceMarker | None,
    user_handler: Handler | None,
) -> tuple[pu.Engine, pu.Result]:
    form = FORMATS[options.format](options.request)

    def handler_for(definition: Definition) -> Handler | None:
        steps: list[Handler] = []
        if marker is not None:
            # First: its line is stamped when it is written.
            steps.append(_marking(definition, marker, options))
        if not options.count:
            steps.append(_printing(form, definition, sink))
        if user_handler is not None:
            steps.append(user_handler)
        return _in_turn(steps)

    with (
        _over_standard_error() as warnings,
        signals.deferred(),
        start_engine(options, lambda text: warning_lines(text, warnings)) as engine,
    ):
        sink.on_failure = engine.interrupt
        sink.flush_regularly()
        # A warning is written on the thread that traces: the program waits for its reader.
        with signals.calling(engine.interrupt, sink.hasten, warnings.hasten):
            try:
                plant(engine, wanted, handler_for)
            except pu.EngineStopped:
                # A stop signal, or the program's own end, came before its probes.
                if signals.received is None and engine.result().exit_status is None:
                    if not options.pids:
                        raise
                    pid = options.pids[0]
                    raise pu.NoSuchProcess(pid, "; it ended before it was probed") from None
            result = engine.run(timeout=options.duration, max_hits=options.max_hits)
        sink.on_failure = None
    with signals.deferred(), signals.calling(sink.hasten):
        # A second Ctrl-C does not cost the summary.
        sink.write(form.summary(summarize(result, engine.probes, options.mechanism)))
        sink.flush()
    if marker is not None:
        for loss in marker.losses():
            warning_lines(loss)
    return engine, result


def _sink(options: Options) -> Sink:
    return _over_standard_error() if options.output is None else Sink.open(options.output)


def _over_standard_error() -> Sink:
    return Sink.over(2, "standard error")


def _marker(options: Options, outputs: ExitStack) -> TraceMarker | None:
    if not options.trace_marker:
        return None
    marker = outputs.enter_context(TraceMarker.open(options.trace_instance))
    for doubt in marker.doubts():
        warning_lines(doubt)
    return marker


def _printing(form: Format, definition: Definition, sink: Sink) -> Handler:
    """A handler that writes the hit's line."""
    format_hit = form.hit_formatter(definition)
    write = sink.write

    def print_hit(hit: pu.Hit) -> None:
        write(format_hit(hit))

    return print_hit


def _marking(definition: Definition, marker: TraceMarker, options: Options) -> Handler:
    """A handler that writes the hit's line into the kernel's trace, as text whatever --format."""
    format_hit = TextFormat(options.request).hit_formatter(definition)
    write = marker.write

    def mark_hit(hit: pu.Hit) -> None:
        write(format_hit(hit))

    return mark_hit


def _in_turn(steps: list[Handler]) -> Handler | None:
    """One handler that does all the steps; none for none."""
    if len(steps) < 2:
        return steps[0] if steps else None
    first, *rest = steps
    following = _in_turn(rest)
    assert following is not None

    def handle(hit: pu.Hit) -> None:
        first(hit)
        following(hit)

    return handle


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
