"""What a line says of the thread that hit: its name and the CPU that it was on.

Read from files of /proc that are kept open: one pread(2) per hit instead of open, read, close.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

__all__ = ["ThreadFacts"]

_KEPT: Final = 64
"""Open files at most; with more threads than that there is an open(2) now and then."""

_FROM_CPU: Final = 14
"""Fields of /proc/TID/stat from `processor`, number 39 of 52, to the end (proc_pid_stat(5))."""

_HEADS_KEPT: Final = 4096
_UNKNOWN: Final = "?"

Head = Callable[[str, int, int], str]


class ThreadFacts:
    """Answers for threads that are stopped, so that nothing changes meanwhile."""

    __slots__ = ("_comms", "_head", "_heads", "_stats")

    def __init__(self, head: Head | None = None) -> None:
        """`head(comm, tid, cpu)` is the text that `head` gives."""
        self._head: Head = head or (lambda comm, tid, cpu: f"{comm}-{tid} [{cpu:03d}]")
        self._heads: dict[int, tuple[bytes, set[int], str]] = {}
        self._comms: dict[int, int] = {}
        self._stats: dict[int, int] = {}

    def head(self, pid: int, tid: int) -> str:
        """The thread's name and CPU, in words that are made anew only when they change."""
        # Hot: comm 0.9 µs and affinity 0.4 µs, where `stat`, which tells both, costs 3.2 µs,
        # most of it the kernel's formatting. A thread that may run on one CPU only has been on
        # that one: the kernel moves it before sched_setaffinity(2) returns.
        try:
            comm, cpus, head = self._heads[tid]
            if os.pread(self._comms[tid], 64, 0) == comm and os.sched_getaffinity(tid) == cpus:
                return head
        except (KeyError, ProcessLookupError):
            pass  # not open yet, or gone, or the number is a new thread's by now
        return self._new_head(pid, tid)

    def comm(self, pid: int, tid: int) -> str:
        """The thread's name."""
        return _decoded(self._read(self._comms, "comm", pid, tid)[:-1])

    def comm_and_cpu(self, pid: int, tid: int) -> tuple[str, int]:
        """The thread's name and the CPU that it last ran on."""
        line = self._read(self._stats, "stat", pid, tid)
        if not line:
            return _UNKNOWN, 0
        # The name may hold anything, parentheses included; the fields after it hold none.
        name = line[line.index(b"(") + 1 : line.rindex(b")")]
        return _decoded(name), int(line.rsplit(None, _FROM_CPU)[1])

    def close(self) -> None:
        for files in (self._comms, self._stats):
            _close_all(files)

    def _new_head(self, pid: int, tid: int) -> str:
        try:
            cpus = os.sched_getaffinity(tid)
        except OSError:
            cpus = set()
        if len(cpus) != 1:
            # Where it was is in `stat` only, and may be elsewhere at the next hit.
            self._heads.pop(tid, None)
            comm, cpu = self.comm_and_cpu(pid, tid)
            return self._head(comm, tid, cpu)
        raw = self._read(self._comms, "comm", pid, tid)
        (cpu,) = cpus
        head = self._head(_decoded(raw[:-1]), tid, cpu)
        if len(self._heads) >= _HEADS_KEPT:
            self._heads.clear()
        self._heads[tid] = (raw, cpus, head)
        return head

    @staticmethod
    def _read(files: dict[int, int], name: str, pid: int, tid: int) -> bytes:
        """The file's content; empty if the thread has died."""
        try:
            return os.pread(files[tid], 1024, 0)
        except (KeyError, ProcessLookupError):
            pass
        stale = files.pop(tid, None)
        if stale is not None:
            os.close(stale)
        if len(files) >= _KEPT:
            _close_all(files)
        try:
            descriptor = os.open(f"/proc/{pid}/task/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            content = os.pread(descriptor, 1024, 0)
        except OSError:
            os.close(descriptor)
            return b""
        files[tid] = descriptor
        return content


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape") or _UNKNOWN


def _close_all(files: dict[int, int]) -> None:
    for descriptor in files.values():
        os.close(descriptor)
    files.clear()
