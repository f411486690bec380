"""One timeline of two files: a saved kernel trace as text, and the hits of a run.

Both are streams of records, each a line with a time and the lines that follow it without one.
The two are merged by time, each keeping its own order, in memory for a line of each. Where the
times are equal the kernel's record goes first: it rounds to the nearest microsecond, we down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final

from ptrace_uprobes.errors import UprobesError

__all__ = ["MergeReport", "NotATrace", "merge"]

_PIECE: Final = 1 << 16
"""Bytes of a line that are held at once; the rest of a longer one follows as it is."""
_HEAD: Final = 512
"""Bytes of a line that can hold what comes before an event's own text."""
_SECOND: Final = 1_000_000_000

# `sort-1234    [001] d..2.  1234.567890: sched_switch: ...` (ftrace.rst); TGID and flags are
# options; trace-cmd prints nanoseconds on demand; perf script has a space for the dash.
# A name has at most 15 bytes, too few for one that looks like what follows it.
_KERNEL_LINE: Final = re.compile(
    rb"\s{0,32}(?P<comm>.{0,32}?)(?:-|\s{1,8})(?P<tid>\d{1,10})(?:/\d{1,10})?\s{1,16}"
    rb"(?:\(\s{0,8}[\d-]{1,10}\)\s{1,8})?\[(?P<cpu>\d{3,6})\]\s{1,8}(?:\S{4,8}\s{1,24})?"
    rb"(?P<seconds>\d{1,12})\.(?P<fraction>\d{9}|\d{6}):\s{1,24}(?:(?P<event>[A-Za-z_]\w{0,100}(?::\w{1,100})?)(?::\s|(?=[(\s])))?"
)
# Ours (output/text.py): what is not printable in a name is escaped, and so longer.
_HIT_LINE: Final = re.compile(
    rb"\s{0,16}.{0,200}?-\d{1,10} {1,8}\[\d{3,6}\] (?P<seconds>\d{1,12})\.(?P<fraction>\d{6}): "
)
_JSON_HIT: Final = re.compile(rb'\{\s{0,8}"type":\s{0,8}"hit",\s{0,8}"time_ns":\s{0,8}(\d{1,18}),')
_SUMMARY_LINE: Final = re.compile(rb'\d+ hits?, \d+ missed; |\{\s{0,8}"type":\s{0,8}"summary"')
_HITS: Final = "a file of hits, and no kernel trace"
_NO_TRACE: Final = {
    b"\x17\x08\x44tracing": "trace-cmd's own format; `trace-cmd report` prints it as text",
    b"PERFILE2": "perf's own format; `perf script` prints it as text",
    b"{": _HITS,
}

Piece = tuple["int | None", bytes]
Write = Callable[[bytes], object]


class NotATrace(UprobesError, ValueError):
    """A file that is no kernel trace as text."""


@dataclass(slots=True)
class Span:
    """The times of one input's records, in nanoseconds."""

    records: int = 0
    earliest: int = 0
    latest: int = 0
    backwards: int = 0
    """Records that are earlier than the one before them."""

    def add(self, time: int, before: int | None) -> None:
        self.earliest = time if before is None else min(self.earliest, time)
        self.latest = time if before is None else max(self.latest, time)
        self.backwards += before is not None and time < before
        self.records += 1

    def __str__(self) -> str:
        return f"{_seconds(self.earliest)} to {_seconds(self.latest)}"


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What was merged."""

    trace: Span
    hits: Span
    is_trace: bool
    """The one file is a kernel trace as text, for all that can be told."""
    is_ours: bool
    """The other is of a run of ours."""

    def doubts(self) -> list[str]:
        """Why the merged file may not be what the user hopes for."""
        if not self.trace.records:
            return ["the kernel trace has no times in seconds: is it text, its trace_clock mono?"]
        if not self.hits.records:
            return ["there are no hits to merge with the kernel trace"]
        found = []
        if self.trace.latest < self.hits.earliest or self.hits.latest < self.trace.earliest:
            found.append(
                f"the times of the kernel trace ({self.trace}) and of the hits ({self.hits}) do "
                "not overlap: was its trace_clock mono?"
            )
        if self.trace.backwards:
            found.append(
                f"the kernel trace goes back in time at {self.trace.backwards} of its lines, which "
                "were left in their order"
            )
        return found


def merge(trace: IO[bytes], hits: IO[bytes], write: Write) -> MergeReport:
    """Write the records of both by time, in the format of `hits`: text, or JSON lines.

    The trace's header comes first, and the summary of the run last. Raises `NotATrace`.
    """
    beginning = trace.readline(_PIECE)
    for magic, why in _NO_TRACE.items():
        if beginning.startswith(magic):
            raise NotATrace(f"it is {why}")
    first = hits.readline(_PIECE)
    is_json = first.startswith(b"{")
    events = _Stream(_kernel_pieces(trace, beginning), _as_json if is_json else _as_it_is)
    ours = _Hits(hits, first, _json_time if is_json else _hit_time)
    records = _Stream(ours.pieces(), _as_it_is)
    for stream in (events, records):
        stream.pass_on(write)
    while events.time is not None or records.time is not None:
        if events.is_at(records):
            raise NotATrace(f"it is {_HITS}: they are in both")
        if records.time is None or (events.time is not None and events.time <= records.time):
            events.pass_on(write)
        else:
            records.pass_on(write)
    for piece in ours.rest():
        write(piece)
    return MergeReport(
        events.span,
        records.span,
        is_trace=bool(events.span.records) or beginning.startswith(b"#"),
        is_ours=bool(records.span.records) or ours.has_summary,
    )


class _Stream:
    """Records, of which the one at hand is known by its time."""

    def __init__(self, pieces: Iterator[Piece], shape: Callable[[Piece], bytes]) -> None:
        self.time: int | None = None
        """Of the record at hand; None before the first and after the last."""
        self.span = Span()
        self._pieces = pieces
        self._shape = shape
        self._piece: Piece | None = None

    def is_at(self, other: _Stream) -> bool:
        """Whether the same record is at hand in both."""
        return self.time == other.time and self._piece == other._piece

    def pass_on(self, write: Write) -> None:
        """Write the record at hand, or what comes before the first, and go on to the next."""
        if self._piece is not None:
            write(self._shape(self._piece))
        for piece in self._pieces:
            time = piece[0]
            if time is not None:
                self.span.add(time, self.time)
                self.time, self._piece = time, piece
                return
            write(self._shape(piece))
        self.time = self._piece = None


class _Hits:
    """The file of a run's hits, and the summary at its end."""

    def __init__(
        self, file: IO[bytes], first: bytes, time_of: Callable[[bytes], int | None]
    ) -> None:
        self._lines = _lines(file, first)
        self._time_of = time_of
        self._summary = b""

    @property
    def has_summary(self) -> bool:
        return bool(self._summary)

    def pieces(self) -> Iterator[Piece]:
        """What comes before the summary."""
        for piece in self._lines:
            if piece[0] is not None and _SUMMARY_LINE.match(piece[1], 0, _HEAD):
                self._summary = piece[1]
                return
            yield (self._time_of(piece[1]) if piece[0] is not None else None, piece[1])

    def rest(self) -> Iterator[bytes]:
        """The summary and what follows it."""
        yield self._summary
        yield from (text for _, text in self._lines)


def _kernel_pieces(file: IO[bytes], beginning: bytes) -> Iterator[Piece]:
    # Hits as text have the kernel's shape; what they have not is its header.
    is_headless = bool(_HIT_LINE.match(beginning, 0, _HEAD))
    for is_start, text in _lines(file, beginning):
        if is_headless and is_start is not None and _SUMMARY_LINE.match(text, 0, _HEAD):
            raise NotATrace(f"it is {_HITS}")
        match = _KERNEL_LINE.match(text, 0, _HEAD) if is_start is not None else None
        yield (None if match is None else _time(match), text)


def _lines(file: IO[bytes], first: bytes) -> Iterator[Piece]:
    """Pieces of lines, marked 0 where a line starts and None where one goes on; the last line
    gets its end if it has none."""
    start: int | None = 0
    piece = first
    while piece:
        following = file.readline(_PIECE)
        ended = piece.endswith(b"\n")
        yield (start, piece if ended or following else piece + b"\n")
        start = 0 if ended else None
        piece = following


def _time(match: re.Match[bytes]) -> int:
    return int(match["seconds"]) * _SECOND + int(match["fraction"].ljust(9, b"0"))


def _hit_time(line: bytes) -> int | None:
    match = _HIT_LINE.match(line, 0, _HEAD)
    return None if match is None else _time(match)


def _json_time(line: bytes) -> int | None:
    match = _JSON_HIT.match(line, 0, _HEAD)
    return None if match is None else int(match[1])


def _as_it_is(piece: Piece) -> bytes:
    return piece[1]


def _as_json(piece: Piece) -> bytes:
    """A record `kernel` of an event; of any other line, one without a time."""
    time, text = piece
    record: dict[str, object] = {"type": "kernel"}
    match = _KERNEL_LINE.match(text, 0, _HEAD) if time is not None else None
    if match is not None:
        record["time_ns"] = time
        record["tid"] = int(match["tid"])
        record["comm"] = _text(match["comm"])
        record["cpu"] = int(match["cpu"])
        record["event"] = _text(match["event"] or b"")
        text = text[match.end() :]
    record["text"] = _text(text).strip()
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _seconds(time: int) -> str:
    return f"{time // _SECOND}.{time % _SECOND // 1000:06d}"
