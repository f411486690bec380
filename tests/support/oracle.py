"""The kernel's own uprobes, as the truth about hit counts.

A uprobe belongs to an inode, so it counts the hits of every process of the machine: the
caller probes private copies of files (`copies.py`), which only its own runs execute.
Documentation/trace/uprobetracer.rst; the nhit column is `probes_profile_seq_show` of
kernel/trace/trace_uprobe.c.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["kernel_uprobes", "require_tracefs"]

_group_numbers = itertools.count()


def _mounted_tracefs() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "tracefs" and os.access(f"{where}/uprobe_events", os.W_OK):
            return Path(where)
    return None


def require_tracefs() -> Path:
    """The tracefs directory, mounted privately if it is not yet; skips the test if it cannot be."""
    if os.geteuid() != 0:
        pytest.skip("kernel uprobes need root")
    if found := _mounted_tracefs():
        return found
    where = Path(tempfile.gettempdir()) / "ptrace-uprobes-tracefs"
    where.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tracefs", "nodev", str(where)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"tracefs cannot be mounted: {mounted.stderr.strip()}")
    if not (where / "uprobe_events").exists():
        pytest.skip("this kernel has no uprobe_events (CONFIG_UPROBE_EVENTS)")
    return where


def _append(path: Path, line: str) -> None:
    # Opening it with O_TRUNC would remove the probes of others (probes_open in trace_uprobe.c);
    # it cannot seek, which open(path, "a") would do.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, os.fsencode(line + "\n"))
    finally:
        os.close(descriptor)


@contextmanager
def kernel_uprobes(
    places: Mapping[str, tuple[Path, int]],
) -> Iterator[Callable[[], dict[str, int]]]:
    """Kernel uprobes at `places` (label to file and file offset), enabled inside the block.

    Yields a function that returns the hits so far by label. Everything is removed at the
    end, and the events of others are left alone.
    """
    tracefs = require_tracefs()
    definitions = tracefs / "uprobe_events"
    group = f"ptu_{os.getpid()}_{next(_group_numbers)}"
    # An instance has its own ring buffer, so that the machine's trace buffer is not filled.
    instance = tracefs / "instances" / group
    events = {f"e{number}": label for number, label in enumerate(places)}
    defined: list[str] = []

    def hits() -> dict[str, int]:
        counts = {}
        for line in (tracefs / "uprobe_profile").read_text().splitlines():
            path, event, count = line.split()
            label = events.get(event)
            if label is not None and path == str(places[label][0]):
                counts[label] = int(count)
        return counts

    instance.mkdir()
    try:
        for event, label in events.items():
            path, offset = places[label]
            _append(definitions, f"p:{group}/{event} {path}:{offset:#x}")
            defined.append(event)
        enable = instance / "events" / group / "enable"
        enable.write_text("1")
        try:
            yield hits
        finally:
            enable.write_text("0")
    finally:
        for event in defined:
            _append(definitions, f"-:{group}/{event}")
        instance.rmdir()
