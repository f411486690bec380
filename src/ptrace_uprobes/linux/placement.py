"""Tracer and tracee on one CPU: a stop then costs a fifth of what it does across two.

Affinity is borrowed: what a thread had is put back by `restore`.
"""

from __future__ import annotations

import os

from ptrace_uprobes.linux.process_info import last_cpu

__all__ = ["Placement"]


class Placement:
    """Keeps a set of threads and the calling thread on one CPU until `restore`."""

    __slots__ = ("_borrowed", "cpu")

    def __init__(self, near_tid: int) -> None:
        """Choose the CPU that `near_tid` last ran on, if we may run there too."""
        allowed = os.sched_getaffinity(0)
        last = last_cpu(near_tid)
        self.cpu = last if last in allowed and last is not None else min(allowed)
        self._borrowed: dict[int, set[int]] = {}

    def take(self, tid: int) -> None:
        """Move a thread (0: the calling one) to the CPU; silently not if it is gone."""
        try:
            before = os.sched_getaffinity(tid)
            os.sched_setaffinity(tid, {self.cpu})
        except OSError:
            return  # gone, or its cpuset excludes the CPU: it stays where it was
        self._borrowed.setdefault(tid, before)

    def inherit(self, tid: int, parent: int) -> None:
        """A new thread got its parent's borrowed affinity; give it back what the parent had."""
        if parent in self._borrowed:
            self._borrowed[tid] = self._borrowed[parent]

    def forget(self, tid: int) -> None:
        self._borrowed.pop(tid, None)

    def restore(self, tid: int) -> None:
        """Give the thread its affinity back; a no-op for one that was not taken."""
        cpus = self._borrowed.pop(tid, None)
        if cpus is None:
            return
        try:
            os.sched_setaffinity(tid, cpus)
        except OSError:
            # Gone, or moved to another cpuset meanwhile: nothing of ours to undo.
            pass
