"""Errors and warnings: to standard error, whatever has become of it."""

from __future__ import annotations

import os

__all__ = ["error_line", "reserve_standard_descriptors", "warning_lines"]

_STDERR = 2


def error_line(message: str) -> None:
    """`ptrace-uprobes: error: ...`, always one line."""
    _write(f"ptrace-uprobes: error: {' '.join(message.split())}\n")


def warning_lines(message: str) -> None:
    """`ptrace-uprobes: warning: ...`; a handler's traceback has more lines than one."""
    _write(f"ptrace-uprobes: warning: {message.rstrip()}\n")


def reserve_standard_descriptors() -> None:
    """Put /dev/null on those of descriptors 0, 1 and 2 that our caller closed.

    The next file that we open would take their number, and a message to standard error end up
    in it: it might be the memory of the probed program. The copies close on exec, so that a
    COMMAND finds closed what was closed.
    """
    descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while descriptor <= _STDERR:
        descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.close(descriptor)


def _write(text: str) -> None:
    try:
        os.write(_STDERR, text.encode("utf-8", "surrogateescape"))
    except OSError:
        # Nobody listens, and there is nowhere else to say it; the exit status still tells.
        pass
