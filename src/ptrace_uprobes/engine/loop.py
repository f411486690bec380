"""The tracer's loop: wait, find out what stopped, act, let it go on.

HOT PATH: hits that only have to be counted stay inside of `counting.serve`; those with a handler
go on to `HitRunner.hit`, everything else to `dispatch`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from ptrace_uprobes.engine.births import Births
from ptrace_uprobes.engine.counting import FAIR_BURST, serve
from ptrace_uprobes.engine.hits import HitRunner
from ptrace_uprobes.engine.libraries import Libraries
from ptrace_uprobes.engine.orphans import Orphans
from ptrace_uprobes.engine.other_mode import OtherMode
from ptrace_uprobes.engine.planting import Planter
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.engine.returns import Returns
from ptrace_uprobes.engine.signals import (
    deliver,
    is_fault,
    leave_slot,
    restart_interrupted_wait,
)
from ptrace_uprobes.engine.standstill import ask_to_stop, go_on, standstill, stoppable
from ptrace_uprobes.engine.state import CAUGHT_TRAP, LOOK, EngineState, record_of, status_of
from ptrace_uprobes.engine.trap_handlers import TrapHandlers
from ptrace_uprobes.errors import NoThreadToUse
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.linux.signal_queue import send_again
from ptrace_uprobes.linux.wait_status import TRAP_STOP, StopKind, decode_status
from ptrace_uprobes.tracee import AddressSpace, RunState, Thread

__all__ = ["Tracer"]

_FAIR_TURNS: Final = 4
_STOPPED: Final = 0x7F
_SYSCALL_ENTRY: Final = -1
"""`Thread.stop_event` at a syscall-entry-stop."""


class Tracer:
    """Drives all tracees; every method runs on the one thread that traces them."""

    def __init__(
        self,
        state: EngineState,
        post: Callable[[Callable[[], None]], None],
        on_ring: Callable[[], None],
        limit_reached: Callable[[], None],
    ) -> None:
        """`on_ring` runs what other threads have posted; `post` lets a worker do that."""
        self.state = state
        self.regions = Regions(state, self.borrow)
        self.planter = Planter(state, self.regions)
        self.libraries = Libraries(state, self.planter, self._hold)
        self.returns = Returns(self.planter)
        self.births = Births(state, self.libraries, self.regions, self.returns)
        self.orphans = Orphans(state, self.births)
        self.hits = HitRunner(
            state,
            self.libraries.on_internal,
            post,
            limit_reached,
            self.returns,
            TrapHandlers(state, self.regions),
            OtherMode(state, self.planter),
        )
        self._on_ring = on_ring
        self._turns: deque[int] = deque()
        """Threads that have not been looked at in this round."""
        self.done = False

    def run(self) -> None:
        """Serve events until `done` is set or nothing is traced any more."""
        # HOT PATH: `serve` is.
        state = self.state
        events = state.events
        hit = self.hits.hit
        while not self.done:
            if events:
                self.dispatch(*events.popleft())
                continue
            tid, status, thread, placed = serve(state)
            if thread is not None and placed is not None:
                # Not taken: should we be killed in a handler, the thread gets its SIGTRAP.
                state.untaken, state.untaken_status = tid, status
                try:
                    hit(thread, placed)
                except TraceeGone:
                    thread.state = RunState.RUNNING
                if state.untaken:
                    state.settle()
            elif tid:
                self._serve(tid, status)
            if state.burst >= FAIR_BURST:
                state.burst = 0
                self._look_at_others()
                self.hits.trap_handlers.watch()
            if state.max_hits and state.total_hits >= state.max_hits:
                self._on_ring()  # at once, not when the doorbell gets a CPU

    def _serve(self, tid: int, status: int) -> None:
        """Act on a status that was looked at. A signal's is taken only if the thread is kept."""
        state = self.state
        thread = state.threads.get(tid)
        if thread is None or state.frozen or status >> 16 or status & 0xFF != _STOPPED:
            self.dispatch(*state.take(tid, status))
            return
        state.untaken, state.untaken_status = tid, status
        self.dispatch(tid, status)
        if state.untaken:
            state.settle()

    def _look_at_others(self) -> None:
        """Serve threads whose turn it is. waitid(2) shows the first one that is ready in its
        list, again and again."""
        state = self.state
        if not self._turns:
            self._turns.extend(state.threads)
        turns = [self._turns.popleft() for _ in range(min(_FAIR_TURNS, len(self._turns)))]
        for tid in (state.doorbell, *turns) if state.doorbell else turns:
            try:
                seen = os.waitid(os.P_PID, tid, LOOK | os.WNOHANG)
            except ChildProcessError:
                continue
            if seen is not None:
                self._serve(tid, status_of(seen))
            if state.events or self.done:
                return

    def dispatch(self, tid: int, status: int) -> None:
        """Act on one wait status."""
        state = self.state
        if state.is_doorbell(tid, status):
            self._on_ring()
            return
        thread = state.threads.get(tid)
        if thread is None:
            self._dispatch_unknown(tid, status)
            return
        try:
            self._dispatch_known(thread, status)
        except TraceeGone:
            # Killed between two of our calls: waitpid will tell how it ended.
            thread.state = RunState.RUNNING
        # Not only by an end: the last one may be a child that is let go.
        self.done = self.done or not state.processes

    def _dispatch_unknown(self, tid: int, status: int) -> None:
        if os.WIFSTOPPED(status):
            # On its way out: a child that was killed before or while it was let go.
            if not self.state.let_exit(tid, status):
                self.state.early[tid] = status
                self.orphans.adopt()
        else:
            self.state.early.pop(tid, None)
            self.state.note_exit(tid, status)

    def _dispatch_known(self, thread: Thread, status: int) -> None:
        caught, thread.trapped = thread.trapped, None
        decoded = decode_status(TRAP_STOP if status == CAUGHT_TRAP else status)
        kind = decoded.kind
        if kind in (StopKind.EXITED, StopKind.KILLED):
            self.births.on_end(thread, status)
            if self.state.early:
                self.orphans.adopt()
            return
        thread.state = RunState.STOPPED
        thread.stop_event = 0
        if thread.interrupted and kind not in (StopKind.EVENT_STOP, StopKind.GROUP_STOP):
            # "Any trap clears pending STOP trap" (kernel/signal.c, ptrace_stop): the interrupt
            # may have gone with this stop, and who asked for it still waits.
            thread.interrupt()
        if status == CAUGHT_TRAP:
            thread.trap_due = False
            self.hits.on_caught(thread, caught)
        elif kind is StopKind.SIGNAL:
            self._on_signal(thread, decoded.code)
        elif kind is StopKind.EVENT_STOP:
            self._on_event_stop(thread)
        elif kind is StopKind.GROUP_STOP:
            self._on_group_stop(thread)
        elif kind is StopKind.SYSCALL:
            self.libraries.on_syscall_stop(thread)
            # On the way in, registers that are set would be taken for the call's own.
            thread.stop_event = _SYSCALL_ENTRY if thread.syscall_entry else 0
            self.state.resume(thread)
        else:
            self.births.on_event(thread, decoded.code)

    def _on_signal(self, thread: Thread, number: int) -> None:
        if number == signal.SIGTRAP:
            thread.trap_due = False
            self.hits.on_trap(thread)
            return
        if thread.stepping is not None:
            info = ptrace_calls.get_signal_info(thread.tid)
            fault = is_fault(number, info)
            if not fault and self.hits.stepper.hold_signal(thread, number, info):
                return
            self.hits.stepper.cancel(thread)
            if not fault:
                leave_slot(thread)
        deliver(self.state, thread, number)

    def _on_event_stop(self, thread: Thread) -> None:
        ours, thread.interrupted = thread.interrupted, False
        if thread.new:
            thread.new = False
            if not self.births.on_first_stop(thread):
                return
        elif thread.after_exec:
            self.births.begin_program(thread)
        elif self._let_step_end(thread):
            return
        elif ours:
            # Not where SIGCONT ends a group-stop: there the program's call fails without us too.
            restart_interrupted_wait(thread)
        self.state.resume(thread)

    def _let_step_end(self, thread: Thread) -> bool:
        """A stop of our making in the middle of a step: True if the thread runs on to its end.

        An interrupt is reported before the step's own SIGTRAP, if both are due.
        """
        if thread.stepping is None:
            return False
        if ptrace_calls.has_queued_step(thread.tid):
            thread.resume()
            thread.trap_due = True
            return True
        self.hits.stepper.cancel(thread)
        leave_slot(thread)
        return False

    @staticmethod
    def _let_fault_come(thread: Thread) -> bool:
        """True if the thread has run into a trap, or a fault, that is not reported yet, and goes
        on to that: what is run in it would take the signal for its own end."""
        if not ptrace_calls.has_queued_fault(thread.tid):
            return False
        stopped, thread.in_group_stop = thread.in_group_stop, False
        thread.resume()
        if stopped:
            thread.recheck_stop = True  # it was run out of that; an interrupt brings it back
        return True

    def _on_group_stop(self, thread: Thread) -> None:
        thread.interrupted = False
        thread.new = False
        if self.state.frozen:
            thread.in_group_stop = True
        else:
            thread.listen()

    def serve_pending(self) -> None:
        """Act on what has been reported so far, without waiting."""
        self.state.drain()
        while self.state.events:
            self.dispatch(*self.state.events.popleft())

    # -- threads held still

    def usable(self, thread: Thread) -> bool:
        """Whether remote calls can be made in the thread as it stands."""
        return (
            thread.state is RunState.STOPPED and not thread.stop_event and thread.stepping is None
        )

    @contextlib.contextmanager
    def borrow(self, space: AddressSpace) -> Iterator[Thread]:
        """A thread of the address space, stopped where remote calls can be made in it."""
        state = self.state
        state.settle()  # what runs in a thread must not be taken for the stop that it stood in
        thread, was_held = self._stop_one(space)
        held_back = thread.resume_signal
        try:
            yield thread
        finally:
            if not was_held:
                if thread.in_group_stop and not state.frozen:
                    thread.in_group_stop = False
                    # It was run out of its group-stop; an interrupt brings it back into it.
                    thread.recheck_stop = True
                number, thread.resume_signal = thread.resume_signal, 0
                if number:
                    deliver(state, thread, number)  # it may stand in a slot
                else:
                    state.resume(thread)
            elif thread.resume_signal not in (0, held_back):
                # One that came meanwhile: whoever lets the thread go on knows nothing of it.
                number, thread.resume_signal = thread.resume_signal, held_back
                info = ptrace_calls.get_signal_info(thread.tid)
                send_again(thread.process.pid, thread.tid, number, info)

    def _stop_one(self, space: AddressSpace) -> tuple[Thread, bool]:
        """A thread that can be used, and whether it was held already, for another reason."""
        state = self.state
        tried: set[int] = set()
        while True:
            # Each time: what was reported instead of our interrupt may be a hit that holds it.
            held = next((thread for thread in space.threads() if self.usable(thread)), None)
            if held is not None:
                if held.busy or held.resume_signal or not self._let_fault_come(held):
                    return held, True
                # Interrupted just behind a trap, where all had to stand still.
                self.dispatch(held.tid, state.wait_for(held.tid))
                continue
            choices = [
                thread
                for thread in space.threads()
                if thread.tid not in tried
                and not thread.in_vfork
                and thread.state in (RunState.RUNNING, RunState.LISTENING)
            ]
            if not choices:
                raise NoThreadToUse("no thread of the program can be stopped now")
            thread = choices[0]
            # Asked for again even if it is on its way: a remote call may have swallowed it.
            if not thread.interrupt():
                tried.add(thread.tid)
                continue
            try:
                status = state.wait_for(thread.tid)
            except TraceeGone:
                thread.state = RunState.GONE
                self.serve_pending()
                continue
            decoded = decode_status(status)
            stops = decoded.kind is StopKind.EVENT_STOP and not thread.new and not thread.after_exec
            if not stops and decoded.kind is not StopKind.GROUP_STOP:
                self.dispatch(thread.tid, status)
                continue
            thread.interrupted = False
            thread.state = RunState.STOPPED
            thread.in_group_stop = not stops
            if (stops and self._let_step_end(thread)) or self._let_fault_come(thread):
                self.dispatch(thread.tid, state.wait_for(thread.tid))
                continue
            if stops:
                restart_interrupted_wait(thread)
            thread.stop_event = 0
            return thread, False

    @contextlib.contextmanager
    def still(self, *spaces: AddressSpace) -> Iterator[None]:
        """Where traps come and go: no thread runs, and what is known to be mapped is there."""
        if self.state.frozen:
            yield
            return
        with self._hold():
            for space in spaces or self.state.spaces():
                self._look_at(space)
            yield

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        with standstill(self.state, self.dispatch):
            self._look_where_due()
            yield

    def _look_where_due(self) -> None:
        for space in self.state.spaces():
            if record_of(space).look_due:
                self._look_at(space)

    def _look_at(self, space: AddressSpace) -> None:
        with contextlib.suppress(TraceeGone):  # it ends, or execs: that will be reported
            self.libraries.replant(record_of(space))

    def freeze(self) -> None:
        """Stop every thread; hits on the way are served, and their threads then held."""
        state = self.state
        state.frozen = True
        asked: set[int] = set()
        while True:
            moving = stoppable(state)
            waiting = any(thread.in_vfork for thread in state.running())
            for thread in list(state.threads.values()) if waiting else []:
                if self._was_held(thread) and state.finishes_vfork(thread):
                    self._let_finish(thread)
            ask_to_stop(moving, asked)
            if not moving and not waiting:
                return
            try:
                self.dispatch(*state.next_event())
            except ChildProcessError:
                return

    @staticmethod
    def _was_held(thread: Thread) -> bool:
        return thread.state is RunState.STOPPED and not thread.in_group_stop

    def _let_finish(self, thread: Thread) -> None:
        """A held vfork child goes on, without waiting for a handler that blocks."""
        if thread.at_hit is not None:
            self.hits.abandon(thread)
            return
        number, thread.resume_signal = thread.resume_signal, 0
        thread.resume(number)

    def thaw(self) -> None:
        """Let every held thread go on as it would have."""
        self._look_where_due()
        self.state.frozen = False
        for thread in list(self.state.threads.values()):
            if thread.state is RunState.STOPPED and not thread.busy:
                go_on(thread)
