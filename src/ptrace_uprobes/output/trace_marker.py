"""Hits in the kernel's own trace: tracefs `trace_marker` (Documentation/trace/ftrace.rst).

A line that is written there is stamped with the trace's clock when it is written. That is while
the thread still stands at its hit, so the line has its right place among the kernel's events of
that thread; our own CLOCK_MONOTONIC time is in the line's text.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from types import TracebackType
from typing import Final

from ptrace_uprobes.errors import OutputError

__all__ = ["TraceMarker", "find_tracefs"]

_MOST: Final = 4000
"""Bytes of one entry. The kernel keeps up to a page less its own header (TRACE_MARKER_MAX_SIZE,
kernel/trace/trace.c; 1024 bytes before Linux 6.8), and takes the rest as another entry."""
_INSTEAD: Final = "--merge TRACE merges a saved kernel trace with the hits instead"
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class TraceMarker:
    """An open trace_marker. A line that it does not take is counted, and no error."""

    def __init__(self, directory: str) -> None:
        """`directory`: where tracefs, or an instance in it, is. Raises `OutputError`."""
        self._lost: dict[int, int] = {}
        self.path = os.path.join(directory, "trace_marker")
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise OutputError(f"cannot write {self.path}: {why}; {_INSTEAD}") from error
        self._directory = directory

    @classmethod
    def open(cls, instance: str | None) -> TraceMarker:
        """`instance`: a directory, or the name of one in tracefs; None: tracefs itself."""
        if instance is None:
            return cls(find_tracefs())
        if "/" in instance:
            return cls(instance)
        return cls(os.path.join(find_tracefs(), "instances", instance))

    def __enter__(self) -> TraceMarker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def write(self, text: str) -> None:
        """One hit's line, and its stack's."""
        # Hot: once per hit, one write(2).
        data = text.strip(" ").encode("utf-8", "surrogateescape")
        try:
            written = os.write(self._descriptor, data) if len(data) <= _MOST else 0
            while written < len(data):
                written += os.write(self._descriptor, data[written : _end_of_entry(data, written)])
        except OSError as error:
            number = error.errno or 0
            self._lost[number] = self._lost.get(number, 0) + 1

    def doubts(self) -> list[str]:
        """Why the trace might not be what the user hopes for, before the run."""
        found = []
        clock = self._setting("trace_clock", r"\[(\S+)\]")
        if clock not in (None, "mono"):
            found.append(
                f"the trace's clock is {clock!r}: its times cannot be compared with those of the "
                f"hits (echo mono > {self._directory}/trace_clock clears the trace and sets it)"
            )
        if self._setting("tracing_on", r"(\d)") == "0":
            found.append(
                f"tracing is off: hits are not in the trace (echo 1 > {self._directory}/tracing_on)"
            )
        return found

    def losses(self) -> list[str]:
        """Which hits are not in the trace, after the run."""
        whys = {errno.EBADF: "tracing was off"}
        return [
            f"{count} of the hits are not in the trace: {whys.get(code) or os.strerror(code)}"
            for code, count in self._lost.items()
        ]

    def _setting(self, name: str, pattern: str) -> str | None:
        try:
            with open(os.path.join(self._directory, name), encoding="ascii") as file:
                match = re.search(pattern, file.read(4096))
        except (OSError, UnicodeDecodeError):
            return None  # it may be forbidden to read what may be written
        return None if match is None else match[1]


def find_tracefs(mounts: str = "/proc/mounts", may: Callable[[str], bool] | None = None) -> str:
    """Where tracefs is mounted, a mount that we may write to if there is one (proc_mounts(5)).

    Raises `OutputError`.
    """
    with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.split() for line in file]
    places = [_unescaped(row[1]) for row in rows if len(row) > 2 and row[2] == "tracefs"]
    for place in places:
        if (may or _may_mark)(place):
            return place
    if places:
        return places[0]  # opening its trace_marker will tell why not
    raise OutputError(
        f"tracefs is not mounted (mount -t tracefs nodev /sys/kernel/tracing); {_INSTEAD}"
    )


def _end_of_entry(data: bytes, start: int) -> int:
    """The end of the longest run of whole lines from `start` that is one entry."""
    if len(data) - start <= _MOST:
        return len(data)
    line_end = data.rfind(b"\n", start, start + _MOST)
    return line_end + 1 if line_end >= 0 else start + _MOST


def _may_mark(place: str) -> bool:
    return os.access(os.path.join(place, "trace_marker"), os.W_OK)


def _unescaped(path: str) -> str:
    """Spaces and the like are octal in /proc/mounts."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), path)
