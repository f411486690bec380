"""What the kernel says of a process: state, threads, text; read without ptrace_uprobes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "TextMapping",
    "altered_text",
    "descendants",
    "process_state",
    "status_fields",
    "text_mappings",
    "thread_ids",
    "wait_until",
]

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class TextMapping:
    """One executable mapping of a file."""

    start: int
    end: int
    offset: int
    path: str


def wait_until(what: str, condition: Callable[[], bool], limit: float = 20.0) -> None:
    """Return as soon as `condition` holds; fail, naming `what`, if it does not within `limit`.

    For states that the kernel reports nowhere but in /proc. The pause bounds the load that
    polling puts on the machine; no test's outcome depends on its length.
    """
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit} s in vain until {what}")
        time.sleep(0.001)


def status_fields(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


def process_state(pid: int) -> str:
    """One letter: R, S, T (job control), t (ptrace), Z ...; X if there is no such process."""
    try:
        return status_fields(pid)["State"][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def thread_ids(pid: int) -> list[int]:
    """The live threads of a process."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def descendants(pid: int) -> list[int]:
    """All processes below `pid` in the family tree, children first."""
    found = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    for task in tasks:
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, children):
            found.append(child)
            found.extend(descendants(child))
    return found


def text_mappings(pid: int) -> list[TextMapping]:
    """The executable file mappings of a process."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[1][2] != "x" or not fields[5].startswith("/"):
            continue
        low, _, high = fields[0].partition("-")
        found.append(TextMapping(int(low, 16), int(high, 16), int(fields[2], 16), fields[5]))
    return found


def altered_text(pid: int, *, but: str | None = None) -> list[tuple[str, int, int, int]]:
    """Where the executable file mappings of a process differ from their files.

    Each difference is (path, file offset, byte in the file, byte in memory). Files whose path has
    `but` in it, which may be unmapped at any moment, are left out.
    """
    found: list[tuple[str, int, int, int]] = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for mapping in text_mappings(pid):
            if but is not None and but in mapping.path:
                continue
            with open(mapping.path, "rb") as file:
                file.seek(mapping.offset)
                expected = file.read(mapping.end - mapping.start)
            memory.seek(mapping.start)
            actual = memory.read(len(expected))
            for block in range(0, len(expected), _BLOCK):
                there, here = expected[block : block + _BLOCK], actual[block : block + _BLOCK]
                if there == here:
                    continue
                found.extend(
                    (mapping.path, mapping.offset + block + index, wanted, seen)
                    for index, (wanted, seen) in enumerate(zip(there, here, strict=False))
                    if wanted != seen
                )
    return found
