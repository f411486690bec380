"""The one OS thread that traces, and how others have things done on it.

Linux binds a tracee to the thread that seized it, so every ptrace request must come from
there. A call is queued and the doorbell rung: a signal to a child of the tracing thread,
which its waitpid reports.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Final, TypeVar

from ptrace_uprobes.engine.loop import Tracer
from ptrace_uprobes.engine.state import EngineState, record_of
from ptrace_uprobes.errors import EngineStopped, UsageError
from ptrace_uprobes.linux import limits
from ptrace_uprobes.linux.child import kill_quietly, spawn_doorbell
from ptrace_uprobes.linux.ptrace_calls import TraceeGone

__all__ = ["TracingThread", "running_threads"]

Result = TypeVar("Result")

_LOOK_AGAIN: Final = 0.5
_RING: Final = signal.SIGUSR1
_WALL: Final = 0x40000000


_running: set[TracingThread] = set()


def running_threads() -> list[TracingThread]:
    """Those of this process that have not ended."""
    return [thread for thread in _running.copy() if not thread.is_forked]


class TracingThread:
    """Owns the tracer; runs its loop from the first call on until nothing is traced."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._calls: deque[Callable[[], None]] = deque()
        self._ended = threading.Event()
        self._process = os.getpid()
        self._closing = False
        self.failure: BaseException | None = None
        self.tracer = Tracer(state, self.post, self._run_calls, self._limit_reached)
        self._thread = threading.Thread(
            target=self._main, name="ptrace-uprobes-tracer", daemon=True
        )
        self.on_limit: Callable[[], None] = lambda: None
        self.rescue: Callable[[], None] = lambda: None
        """Detaches, after a fault of ours."""
        self.let_go: Callable[[], None] = lambda: None
        """Detaches, and waits until that is done. From any other thread."""

    def start(self, first: Callable[[], None]) -> None:
        """Begin with `first`, which takes hold of the tracees; raises what it raises."""
        ready: Future[None] = Future()

        def begin() -> None:
            try:
                first()
            except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
                self._closing = True
                ready.set_exception(error)
            else:
                ready.set_result(None)

        self._calls.append(begin)
        _running.add(self)
        try:
            limits.start(self._thread)
        except OSError:
            _running.discard(self)
            raise
        ready.result()

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    @property
    def is_forked(self) -> bool:
        """This is a copy in a fork child: it has neither the thread nor its tracees."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        if self.is_forked:
            raise UsageError(
                f"the engine is process {self._process}'s; this one was forked from it and has none"
            )

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` run on the tracing thread soon. Safe in a Python signal handler."""
        self._calls.append(call)
        self.ring()

    def ring(self) -> None:
        """Wake the tracing thread. Safe in a Python signal handler."""
        if self._state.doorbell and not self._ended.is_set() and not self.is_forked:
            kill_quietly(self._state.doorbell, _RING)

    def call(self, function: Callable[[], Result]) -> Result:
        """Run `function` on the tracing thread and give its result or raise its error."""
        self.check_process()
        if self.is_current():
            return function()
        if self._ended.is_set():
            raise EngineStopped
        answer: Future[Result] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
                answer.set_exception(error)

        self.post(run)
        while not wait([answer], timeout=0.5).done:
            # The timeout is for an engine that ends between the check and the queueing.
            if self._ended.is_set() and not answer.done():
                raise EngineStopped
            self.ring()
        return answer.result()

    def wait(self, timeout: float | None) -> bool:
        """Until nothing is traced any more; False if `timeout` seconds pass first."""
        return self._ended.wait(timeout)

    def watch_for_thieves(self) -> None:
        """Look regularly for stops that other threads of this process have waited for."""

        def watch() -> None:
            while not self._ended.wait(_LOOK_AGAIN):
                self.ring()

        limits.start(threading.Thread(target=watch, name="ptrace-uprobes-watch", daemon=True))

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def _limit_reached(self) -> None:
        self.post(self.on_limit)

    def _hang_doorbell(self) -> None:
        guard = self._state.guard
        starting = guard.make() if guard.guardian is None else None
        self._state.doorbell = spawn_doorbell(starting)
        if starting is not None:
            starting.started()

    def _run_calls(self) -> None:
        lost = self._state.guard.needs_another()
        if lost:
            self._silence_doorbell()
        if not self._state.doorbell:
            self._hang_doorbell()  # someone killed it
            self._state.guard.cover_all(record_of(space) for space in self._state.spaces())
        if lost and self._state.guard.had_begun:
            self._state.warn_once("the guardian has ended; there is another one now")
        self._state.recover_lost_stops()
        # During a detach nothing else may begin: what is posted then is answered after it.
        while not self._state.detaching and self._calls:
            self._calls.popleft()()

    def _main(self) -> None:
        try:
            self._run_calls()
            if not self._closing:
                self.tracer.run()
                self._run_orphans()
        except BaseException as error:  # noqa: BLE001  # raised by Engine.result
            if not self.is_forked:  # else a handler has forked, and the child came back here
                self.failure = error
                self._rescue()
        if self.is_forked:
            return
        try:
            self.tracer.hits.close()
            self._state.guard.end()
            self._silence_doorbell()
        finally:
            # Whatever fails, others wait for this.
            self._ended.set()
            _running.discard(self)
            self._run_calls_after_the_end()

    def _run_orphans(self) -> None:
        """What the last processes left behind: let go of, or followed as they would have been."""
        self._silence_doorbell()
        while self.tracer.orphans.are_left():
            self._hang_doorbell()
            self.tracer.done = False
            self.tracer.run()
            self._silence_doorbell()
        self._state.note_exits()

    def _rescue(self) -> None:
        """A fault of ours: whatever it was, no trap may stay behind in a program."""
        try:
            self.rescue()
        except BaseException as error:  # noqa: BLE001  # the first fault is the one to report
            self._state.guard.act()
            self._state.warn(f"could not detach cleanly: {error!r}")

    def _run_calls_after_the_end(self) -> None:
        while self._calls:
            try:
                self._calls.popleft()()
            except (EngineStopped, TraceeGone, OSError):
                # Posted for tracees that are gone.
                pass

    def _silence_doorbell(self) -> None:
        doorbell, self._state.doorbell = self._state.doorbell, 0
        if doorbell:
            kill_quietly(doorbell, signal.SIGKILL)
            try:
                os.waitpid(doorbell, _WALL)
            except ChildProcessError:
                pass  # someone killed it before us, and the loop has reaped it
