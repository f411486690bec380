"""Where the command begins, and where every error that a user can meet ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from ptrace_uprobes.cli.arguments import parse
from ptrace_uprobes.cli.diagnostics import error_line, reserve_standard_descriptors
from ptrace_uprobes.cli.emit import emit
from ptrace_uprobes.cli.explain import explain
from ptrace_uprobes.cli.merge import merge_files
from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.cli.record import record
from ptrace_uprobes.cli.stop_signals import StopRequested, StopSignals
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.linux.limits import reason

__all__ = ["main"]

_FAILED = 1
_SIGNALLED = 128
_SIGINT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is the exit status."""
    reserve_standard_descriptors()
    status = _run(sys.argv[1:] if arguments is None else arguments)
    # What a handler printed may still be in Python's own buffer, and its reader gone.
    try:
        if sys.stdout is not None:  # None where descriptor 1 was closed
            sys.stdout.flush()
    except OSError as error:
        error_line(f"cannot write to standard output: {error.strerror}")
        # The interpreter would try again at its end, and complain in its own way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or _FAILED
    return status


def _run(arguments: Sequence[str]) -> int:
    signals: StopSignals | None = None
    try:
        options = parse(arguments)
        if options is None:
            return 0
        signals = StopSignals(launching=bool(options.command))
        with signals:
            if options.hits_file is not None:
                return merge_files(options)
            return _command_of(options)(options, signals)
    except UprobesError as error:
        error_line(str(error), hasten=_was_asked_to_end(signals))
        return error.exit_status
    except StopRequested as stop:
        return _SIGNALLED + stop.number
    except KeyboardInterrupt:
        return _SIGNALLED + _SIGINT
    except OSError as error:
        # The system's, not the user's doing, but a line tells more than a traceback: no
        # descriptors left, no memory.
        error_line(reason(error), hasten=_was_asked_to_end(signals))
        return _FAILED


def _was_asked_to_end(signals: StopSignals | None) -> bool:
    return signals is not None and signals.received is not None


def _command_of(options: Options) -> Callable[[Options, StopSignals], int]:
    if options.explain:
        return explain
    return emit if options.emit else record
