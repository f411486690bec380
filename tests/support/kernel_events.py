"""What the kernel's own uprobes record: the truth about fetchargs and filters.

Documentation/trace/uprobetracer.rst and events.rst. The events stand in an instance of their
own, so that neither the machine's trace nor its filters are touched; the files probed are
private copies (`copies.py`), which only our own runs execute.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.oracle import require_tracefs

__all__ = [
    "Event",
    "Planted",
    "events_of",
    "new_group",
    "planted_in_kernel",
    "recorded",
    "run_comparably",
]

_BUFFER_KIB = "16384"
_LIMIT = 60.0
_DEFINITION = re.compile(r"[pr]:(\w+)/(\w+) ")
_group_numbers = itertools.count()

# "COMM-TID [CPU] FLAGS SECONDS.MICROS: EVENT: REST"; the flags are the kernel's only.
_LINE = re.compile(r"\s*\S.*?-\d+\s+\[\d+\]\s+(?:\S+\s+)?\d+\.\d{6}: (\w+): (\(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\.")
_LINE_START = re.compile(r"\s*\S.*?-\d+\s+\[\d+\]\s+(?:\S+\s+)?\d+\.\d{6}: \w+: \(0x")


@dataclass(frozen=True, slots=True)
class Planted:
    """A definition in the kernel's notation, with a group and an event, and its filter."""

    definition: str
    filter: str | None = None

    @property
    def names(self) -> tuple[str, str]:
        """GRP and EVENT."""
        match = _DEFINITION.match(self.definition)
        assert match is not None, self.definition
        return match[1], match[2]


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a trace, without who, where and when."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def new_group() -> str:
    """A group name that nobody on this machine uses."""
    return f"ptue_{os.getpid()}_{next(_group_numbers)}"


def events_of(trace: str) -> list[Event]:
    r"""The events of a trace of one line each; other lines are passed over.

    Quotes within strings are as the kernel has them, which writes no `\` before them.
    """
    matches = map(_LINE.fullmatch, trace.split("\n"))
    return [
        Event(match[1], _ESCAPE.sub(_bare_quote, match[2]))
        for match in matches
        if match is not None
    ]


def _bare_quote(escape: re.Match[str]) -> str:
    return escape[0].removeprefix("\\") if escape[0][1] in "\"'" else escape[0]


def _one_line_each(trace: bytes) -> str:
    """The kernel's trace with what programs put into strings and characters as escapes.

    The kernel writes such bytes as they are, line ends too; we write escapes (`output/`), so
    that a hit is a line. What follows the line end of a string is no event of its own.
    """
    entries: list[str] = []
    for line in trace.decode("utf-8", "surrogateescape").split("\n"):
        if _LINE_START.match(line):
            entries.append(line)
        elif entries and not line.startswith("#"):
            entries[-1] += "\n" + line
    return "\n".join(
        "".join(
            c if c.isprintable() and c != "\\" else _escape(c) for c in entry.removesuffix("\n")
        )
        for entry in entries
    )


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"  # as we write it; a quote the kernel leaves, see `events_of`
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, by surrogateescape
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _define(tracefs: Path, text: str) -> None:
    # O_TRUNC would remove the probes of others, and the file cannot seek.
    descriptor = os.open(tracefs / "uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, os.fsencode(text + "\n"))
    except OSError as error:
        said = (tracefs / "error_log").read_text().strip().splitlines()[-3:]
        raise AssertionError(f"the kernel refuses {text!r}: {error}: {said}") from error
    finally:
        os.close(descriptor)


@contextmanager
def planted_in_kernel(probes: Sequence[Planted]) -> Iterator[Path]:
    """The probes in the kernel, enabled inside the block; yields a trace instance.

    Of several probes at one address the kernel runs the one that was enabled last first
    (consumer_add of kernel/events/uprobes.c). They are enabled from the last to the first, so
    that they fire in the order of their definition.
    """
    tracefs = require_tracefs()
    instance = tracefs / "instances" / new_group()
    names = list(dict.fromkeys(probe.names for probe in probes))
    defined: list[tuple[str, str]] = []
    instance.mkdir()
    try:
        (instance / "trace_clock").write_text("mono")
        (instance / "buffer_size_kb").write_text(_BUFFER_KIB)
        for probe in probes:
            _define(tracefs, probe.definition)
            if probe.names not in defined:
                defined.append(probe.names)
        for probe in probes:
            if probe.filter is not None:
                group, event = probe.names
                (instance / "events" / group / event / "filter").write_text(probe.filter)
        for group, event in reversed(names):
            (instance / "events" / group / event / "enable").write_text("1")
        yield instance
    finally:
        for group, event in defined:
            (instance / "events" / group / event / "enable").write_text("0")
        for group, event in defined:
            _define(tracefs, f"-:{group}/{event}")
        instance.rmdir()


def recorded(instance: Path) -> list[Event]:
    """What the instance holds; nothing of it may have been overwritten."""
    for stats in instance.glob("per_cpu/cpu*/stats"):
        text = stats.read_text()
        assert "overrun: 0\n" in text, text
    trace = (instance / "trace").read_bytes()
    assert b" EVENTS]" not in trace  # [LOST n EVENTS]
    return events_of(_one_line_each(trace))


def run_comparably(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    before: Sequence[str] = (),
) -> subprocess.CompletedProcess[bytes]:
    """The command with this environment and no other, on one CPU, without address randomisation.

    `before` are words in front of it that run it (a tracer), and keep the caller's environment.
    """
    settings = [f"{name}={value}" for name, value in sorted(env.items())]
    cpu = str(min(os.sched_getaffinity(0)))
    return subprocess.run(
        ["setarch", "-R", "taskset", "-c", cpu, *before, "env", "-i", *settings, *map(str, argv)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=_LIMIT,
    )
