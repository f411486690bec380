"""Errors and warnings: to standard error, whatever has become of it."""

from __future__ import annotations

import os
import re
from typing import Final

from ptrace_uprobes.errors import OutputError, printable
from ptrace_uprobes.output.sink import Sink

__all__ = ["error_line", "reserve_standard_descriptors", "warning_lines"]

_STDERR: Final = 2
_LINE_END: Final = re.compile(r"\s*\n\s*")


def error_line(message: str, *, hasten: bool = False) -> None:
    """`ptrace-uprobes: error: ...`, always one line. `hasten` gives a reader a second for it."""
    # Blanks are as the user gave them: positions count them.
    line = printable(_LINE_END.sub(" ", message.strip()))
    _write(f"ptrace-uprobes: error: {line}\n", hasten=hasten)


def warning_lines(message: str, sink: Sink | None = None) -> None:
    """`ptrace-uprobes: warning: ...`; a handler's traceback has more lines than one.

    To a `sink` over standard error if what waits for its reader must be able to be hastened.
    """
    text = f"ptrace-uprobes: warning: {message.rstrip()}\n"
    if sink is None:
        _write(text)
    else:
        sink.write(text)
        sink.flush()


def reserve_standard_descriptors() -> None:
    """Put /dev/null on those of descriptors 0, 1 and 2 that our caller closed.

    The next file that we open would take their number, and a message to standard error end up
    in it: it might be the memory of the probed program. The copies close on exec, so that a
    COMMAND finds closed what was closed. Standard output stays one that cannot be written.
    """
    for number, access in enumerate((os.O_RDWR, os.O_RDONLY, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, access | os.O_CLOEXEC)  # gets the lowest number that is free


def _write(text: str, *, hasten: bool = False) -> None:
    try:
        with Sink.over(_STDERR, "standard error") as sink:
            if hasten:
                sink.hasten()
            # If nobody listens, there is nowhere else to say it; the exit status still tells.
            sink.write(text)
    except OutputError:
        pass  # it is closed
