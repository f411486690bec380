"""The engine's tables, and the one place where wait statuses are taken from the kernel."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ptrace_uprobes.engine.guard import Guard
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.lost_stops import lost_status
from ptrace_uprobes.linux.placement import Placement
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS, TraceeGone
from ptrace_uprobes.linux.wait_status import TRAP_STOP, decode_status
from ptrace_uprobes.probe import Probe
from ptrace_uprobes.sites import TrapTable
from ptrace_uprobes.ssol.plan import Mechanism
from ptrace_uprobes.ssol.scratch import SlotArea
from ptrace_uprobes.tracee import AddressSpace, Process, RunState, Thread

__all__ = [
    "CAUGHT_TRAP",
    "LOOK",
    "WAIT_FLAGS",
    "EngineState",
    "Options",
    "is_exec_stop",
    "record_of",
    "status_of",
]

_WALL: Final = 0x40000000
_WNOTHREAD: Final = 0x20000000
_EXIT_STOP: Final = ptrace_calls.EVENT_EXIT << 8 | 5  # SIGTRAP
_EXEC_STOP: Final = ptrace_calls.EVENT_EXEC << 8 | 5  # SIGTRAP
_ENDED_KEPT: Final = 8
WAIT_FLAGS: Final = _WALL | _WNOTHREAD
"""Every kind of child, but only this thread's: the embedding program's are not ours to reap."""
LOOK: Final = WAIT_FLAGS | os.WEXITED | os.WNOWAIT
"""For waitid(2), to look at a status and not take it.

A stop that was taken has lost its signal (kernel/exit.c, wait_task_stopped, sets the exit code that
ptrace_stop returns to 0): were we killed then, a thread that has run into a trap would go on inside
of an instruction, with no SIGTRAP. So a stop for a signal is taken only when its thread has to be
kept in it, and one for a trap not before its thread's program counter is where it can go on."""
CAUGHT_TRAP: Final = 1 << 30 | TRAP_STOP
"""In the place of a status: the thread has run into `Thread.trapped`, and stands ready to go on."""
_SI_STATUS: Final = 3  # the indices of os.waitid_result
_SI_CODE: Final = 4


def status_of(seen: os.waitid_result) -> int:
    """What waitpid(2) would say."""
    code, status = seen[_SI_CODE], seen[_SI_STATUS]
    if code == os.CLD_EXITED:
        return (status & 0xFF) << 8
    if code == os.CLD_KILLED:
        return status
    if code == os.CLD_DUMPED:
        return status | 0x80
    return status << 8 | 0x7F


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose for the whole run."""

    follow_forks: bool = False
    mechanism: Mechanism | None = None
    colocate: str = "off"
    """`on`; `off`; or `auto`: as long as each process has only one thread."""


def is_exec_stop(status: int) -> bool:
    return status >> 8 == _EXEC_STOP


def record_of(space: AddressSpace) -> SpaceRecord:
    """The engine's record of an address space, made on first use."""
    if space.extra is None:
        traps = TrapTable(space.memory, space.architecture)
        space.extra = SpaceRecord(space, traps, SlotArea(space.memory, space.architecture))
    record: SpaceRecord = space.extra
    return record


@dataclass(slots=True)
class EngineState:
    """Shared by the engine's parts; touched by the tracer's thread only."""

    options: Options
    warn: Callable[[str], None]
    threads: dict[int, Thread] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    early: dict[int, int] = field(default_factory=dict)
    """First stops of children whose parent's event has not come yet."""
    probes: list[Probe] = field(default_factory=list)
    adding: set[Probe] = field(default_factory=set)
    """Those of them that are still being looked for for the first time."""
    has_semaphores: bool = False
    """Whether there was a probe that may have one; asked at each change of traps."""
    events: deque[tuple[int, int]] = field(default_factory=deque)
    """Statuses taken from the kernel and not yet acted on."""
    burst: int = 0
    """Stops served since the last time that others than the first that is ready got a turn."""
    frozen: bool = False
    """Threads that stop stay stopped."""
    untaken: int = 0
    """The thread that is being served in a stop that has not been taken."""
    untaken_status: int = 0
    """That stop's."""
    doorbell: int = 0
    placement: Placement | None = None
    exit_status: int | None = None
    failure: BaseException | None = None
    """Why the run cannot do what it was asked for; raised by `Engine.run`."""
    launched: int = 0
    detaching: bool = False
    live: bool = False
    """Probes hold traps: `Engine.run` or `start` has been called."""
    ended: deque[AddressSpace] = field(default_factory=lambda: deque(maxlen=_ENDED_KEPT))
    """Those that are no more, the last one first: what forked from them may be found later."""
    max_hits: int = 0
    total_hits: int = 0
    current: Thread | None = None
    """The thread whose hit a handler is running for."""
    skipped: set[str] = field(default_factory=set)
    """Warnings that have been given once."""
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self.guard = Guard(self.warn_once)

    @property
    def nonce(self) -> bytes:
        """By which the guardian knows memory of ours."""
        guardian = self.guard.guardian
        return b"" if guardian is None else guardian.ledger.nonce

    def spaces(self) -> list[AddressSpace]:
        seen: dict[int, AddressSpace] = {}
        for process in self.processes.values():
            seen[process.space.serial] = process.space
        return list(seen.values())

    def warn_once(self, text: str) -> None:
        if text not in self.skipped:
            self.skipped.add(text)
            self.warn(text)

    # -- taking statuses: see LOOK

    def look(self, *, patient: bool = True) -> os.waitid_result | None:
        """The next status, not taken; None if there is none yet. Raises ChildProcessError when
        there is nothing to wait for."""
        if self.untaken:
            self.settle()
        return os.waitid(os.P_ALL, 0, LOOK if patient else LOOK | os.WNOHANG)

    def take(self, tid: int, status: int) -> tuple[int, int]:
        """Take a status that was looked at, its thread's trap secured."""
        if status == TRAP_STOP:
            thread = self.threads.get(tid)
            if thread is not None and self._secure(thread):
                taken = self._reap(tid, status)
                return tid, CAUGHT_TRAP if taken == status else taken
        return tid, self._reap(tid, status)

    @staticmethod
    def _reap(tid: int, seen: int) -> int:
        """Take a status; the one that it was. What was killed since it was `seen`, by an exec of
        its sister's too, stands elsewhere now (PTRACE_EVENT_EXIT), and that is not told again."""
        try:
            reaped, status = os.waitpid(tid, WAIT_FLAGS | os.WNOHANG)
        except ChildProcessError:
            return seen
        return status if reaped else seen

    def _secure(self, thread: Thread) -> bool:
        """Have a thread that stands in a trap's stop stand where it can go on without a signal."""
        if thread.stepping is not None:
            return False
        try:
            placed: PlacedSite | None = thread.placed.get(ptrace_calls.peek_user(thread.tid, "rip"))
            if placed is None or not placed.has_trapped(thread.tid):
                return False
            self._ready(thread, placed)
        except TraceeGone:
            return False
        thread.trapped = placed
        return True

    @staticmethod
    def _ready(thread: Thread, placed: PlacedSite) -> None:
        ptrace_calls.call(
            ptrace_calls.POKEUSER,
            thread.tid,
            USER_OFFSETS["rip"],
            placed.resume_at or placed.address,
        )

    def settle(self) -> None:
        """Take the stop of the thread that is being served, unless it goes on already."""
        tid, self.untaken = self.untaken, 0
        thread = self.threads.get(tid)
        if thread is None or thread.state is not RunState.STOPPED:
            return
        try:
            if thread.at_hit is not None:
                self._ready(thread, thread.at_hit)
        except TraceeGone:
            return
        status = self._reap(tid, self.untaken_status)
        if status != self.untaken_status:
            self.put_back(tid, status)

    def next_event(self) -> tuple[int, int]:
        """The next status; blocks. Raises ChildProcessError when there is nothing to wait for."""
        if self.events:
            return self.events.popleft()
        seen = self.look()
        assert seen is not None
        return self.take(seen[0], status_of(seen))

    def is_doorbell(self, tid: int, status: int) -> bool:
        """Whether this is the doorbell; its ring is silenced then."""
        if tid != self.doorbell:
            return False
        if os.WIFSTOPPED(status):
            try:
                ptrace_calls.call(ptrace_calls.CONT, tid)
            except ptrace_calls.TraceeGone:
                pass
        else:
            self.doorbell = 0
        return True

    def wait_for(self, tid: int, *, bare: bool = False) -> int:
        """The next status of one thread; those of others are kept for later. `bare`: a trap that
        it has run into is the caller's.

        Raises `TraceeGone` if the thread has come by another number.
        """
        for index, (other, status) in enumerate(self.events):
            if other == tid:
                del self.events[index]
                return status
            self._check_renamed(tid, other, status)
        for event in list(self.events):
            if self.let_exit(*event):
                self.events.remove(event)
        while True:
            seen = self.look()
            assert seen is not None
            other, status = seen[0], status_of(seen)
            if other == tid and bare:
                return self._reap(other, status)
            other, status = self.take(other, status)
            if other == tid:
                return status
            if self.let_exit(other, status):
                continue
            self.put_back(other, status)
            if os.WIFSTOPPED(status) and self.is_doorbell(other, status):
                # Silenced for the next ring to be heard, and kept for who posted something.
                lost = lost_status(tid)
                if lost is not None:
                    return lost
                continue
            self._check_renamed(tid, other, status)

    def let_exit(self, tid: int, status: int) -> bool:
        """Have a thread that stops on its way out go on; False if it is no such stop.

        An exec in the thread that is waited for waits itself for its sisters to be gone.
        """
        if status >> 8 != _EXIT_STOP:
            return False
        thread = self.threads.get(tid)
        if thread is not None:
            thread.state = RunState.GONE
        try:
            ptrace_calls.call(ptrace_calls.CONT, tid)
        except ptrace_calls.TraceeGone:
            pass
        return True

    @staticmethod
    def _check_renamed(tid: int, other: int, status: int) -> None:
        """A thread that execs takes the leader's number: nothing more comes under its own."""
        if is_exec_stop(status) and ptrace_calls.get_event_message(other) == tid:
            raise ptrace_calls.TraceeGone(tid)

    def put_back(self, tid: int, status: int) -> None:
        """A status that was taken too early, to be acted on later."""
        if is_exec_stop(status):
            # By a sister of the thread that had the number: what that one had to say is past, and
            # acting on it would let the new program go on.
            for event in [event for event in self.events if event[0] == tid]:
                self.events.remove(event)
        self.events.append((tid, status))

    def recover_lost_stops(self) -> None:
        """Queue the status of every thread that stands in a stop which nobody will report."""
        queued = {tid for tid, _ in self.events}
        for thread in list(self.threads.values()):
            if thread.state is RunState.RUNNING and thread.tid not in queued:
                status = lost_status(thread.tid)
                if status is not None:
                    self.put_back(thread.tid, status)

    def drain(self) -> None:
        """Take every status that is ready, so that no thread waits behind a busier one.

        waitpid(2) serves the first ready child in its list, again and again.
        """
        while True:
            try:
                seen = self.look(patient=False)
            except ChildProcessError:
                return
            if seen is None:
                return
            self.put_back(*self.take(seen[0], status_of(seen)))

    def resume(self, thread: Thread, number: int = 0) -> None:
        """Let a thread run on, or hold it where it is if it must be.

        It is never held inside a system call, as event stops are: there it is of no use.
        """
        if thread.busy or self.holds(thread):
            thread.state = RunState.STOPPED
            thread.resume_signal = number
        else:
            thread.resume(number)

    def holds(self, thread: Thread) -> bool:
        """Whether a thread that has stopped is to stay so."""
        return self.frozen and not thread.stop_event and not self.finishes_vfork(thread)

    @staticmethod
    def finishes_vfork(thread: Thread) -> bool:
        """A vfork child must run on, for its parent cannot stop before it execs or exits."""
        space = thread.process.space
        return len(space.processes) > 1 and any(
            other.in_vfork for other in space.threads() if other.process is not thread.process
        )

    def running(self) -> list[Thread]:
        return [
            t for t in self.threads.values() if t.state in (RunState.RUNNING, RunState.LISTENING)
        ]

    def new_process(
        self, pid: int, space: AddressSpace, *, launched: bool = False, followed: bool = True
    ) -> Process:
        process = Process(pid, space, launched=launched, followed=followed)
        self.processes[pid] = process
        return process

    def new_thread(self, tid: int, process: Process) -> Thread:
        thread = Thread(tid, process)
        self.threads[tid] = thread
        if self.placement is not None:
            self.placement.take(tid)
            if self.options.colocate == "auto" and len(process.threads) > 1:
                self.stop_colocating()
        return thread

    def stop_colocating(self) -> None:
        """Give every thread, and our own, the CPUs back that it had."""
        if self.placement is not None:
            for tid in (0, *self.threads):
                self.placement.restore(tid)
            self.placement = None

    def forget_thread(self, thread: Thread) -> None:
        """The thread is not ours any more; its process neither if it was the last."""
        thread.forget()
        self.threads.pop(thread.tid, None)
        if self.placement is not None:
            self.placement.forget(thread.tid)
        process = thread.process
        if not process.threads and self.processes.get(process.pid) is process:
            del self.processes[process.pid]
            process.space.processes.pop(process, None)
            if not process.space.processes:
                process.space.close()
                self.note_end_of(process.space)

    def note_end_of(self, space: AddressSpace) -> None:
        """Its last process has ended, or has exec'ed."""
        self.ended.appendleft(space)

    def note_exits(self) -> None:
        """As `note_exit`, of what was taken from the kernel and is not acted on any more."""
        while self.events:
            tid, status = self.events.popleft()
            if not os.WIFSTOPPED(status):
                self.note_exit(tid, status)

    def note_exit(self, pid: int, status: int) -> None:
        """Remember how the launched command ended."""
        if pid == self.launched:
            decoded = decode_status(status)
            self.exit_status = decoded.code if os.WIFEXITED(status) else 128 + decoded.code
