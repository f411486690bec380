"""Threads for blocking handlers: as many as run at once, kept for the next ones."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

__all__ = ["Workers"]

Job = Callable[[], None]


class Workers:
    """A pool without a limit: a handler that sleeps must not make another one wait.

    Its threads are daemons, so that a handler that never returns cannot keep the
    interpreter from ending.
    """

    __slots__ = ("_closed", "_idle", "_jobs", "_lock")

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._idle = 0
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, job: Job) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(
                    target=self._work, name="ptrace-uprobes-handler", daemon=True
                ).start()
        self._jobs.put(job)

    def close(self) -> None:
        """Idle threads end, and busy ones after their job."""
        with self._lock:
            self._closed = True
            for _ in range(self._idle):
                self._jobs.put(None)
            self._idle = 0

    def _work(self) -> None:
        process = os.getpid()
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            if os.getpid() != process:
                return  # the job has forked, and this is the child: nobody gives it another
            with self._lock:
                if self._closed:
                    return
                self._idle += 1
