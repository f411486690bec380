"""Address spaces, processes and threads that are traced, and what one thread's state is.

Traps and slots belong to an `AddressSpace`, never to a pid: threads share one, and so do
vfork children until they exec.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import Enum
from typing import Any

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.memory import ProcessMemory, ProgramMemory
from ptrace_uprobes.linux.ptrace_calls import TraceeGone

__all__ = ["AddressSpace", "Process", "RunState", "Thread"]


class RunState(Enum):
    """Where a thread is between two of our looks at it."""

    RUNNING = "running"
    STOPPED = "in a ptrace-stop that we hold"
    LISTENING = "in a group-stop, waiting for SIGCONT"
    GONE = "ended, or ending"


_serial = itertools.count(1)


class AddressSpace:
    """Memory that threads share; `placed` maps a trap's reported RIP to its site's record."""

    __slots__ = ("architecture", "extra", "memory", "on_gone", "placed", "processes", "serial")

    def __init__(self, leader: int, architecture: Architecture) -> None:
        self.serial = next(_serial)
        self.architecture = architecture
        self.memory = ProcessMemory(leader)
        self.processes: dict[Process, None] = {}
        """In the order in which they came: the first is the one whose memory it is."""
        self.placed: dict[int, Any] = {}
        """Filled by the engine; keyed by the address just past the trap, as RIP stands there."""
        self.extra: Any = None
        """The engine's own record of this address space."""
        self.on_gone: Callable[[], None] = lambda: None

    def close(self) -> None:
        """No process has it any more."""
        self.memory.close()
        self.on_gone()

    def any_thread(self) -> Thread | None:
        """A live thread, of the process whose memory it is if there is one.

        A vfork child that shares it may have exec'ed already, without our knowing yet.
        """
        for process in self.processes:
            for thread in process.threads.values():
                if thread.state is not RunState.GONE:
                    return thread
        return None

    def threads(self) -> list[Thread]:
        return [thread for process in self.processes for thread in process.threads.values()]


class Process:
    """A thread group. `launched`: our own child. `followed`: the user named it, or its parent
    is followed; else it is traced only for as long as it shares a followed one's memory."""

    __slots__ = ("exec_count", "followed", "launched", "lost_threads", "pid", "space", "threads")

    def __init__(
        self, pid: int, space: AddressSpace, *, launched: bool = False, followed: bool = True
    ) -> None:
        self.pid = pid
        self.launched = launched
        self.followed = followed
        self.threads: dict[int, Thread] = {}
        self.space = space
        self.exec_count = 0
        self.lost_threads = False
        """An exec has ended threads of it, in whatever they were about."""
        space.processes[self] = None

    def move_to(self, space: AddressSpace) -> None:
        """The process has exec'ed: it leaves the memory it had, shared or not."""
        self.space.processes.pop(self, None)
        if not self.space.processes:
            self.space.close()
        self.space = space
        space.processes[self] = None
        for thread in self.threads.values():
            thread.placed = space.placed
            thread.word = space.architecture.word_size


class Thread:
    """A traced thread. Every method is for the tracer's thread, with this one stopped."""

    __slots__ = (
        "active_calls",
        "after_exec",
        "at_hit",
        "busy",
        "in_group_stop",
        "in_mmap",
        "in_vfork",
        "interrupted",
        "memory",
        "new",
        "past_guard",
        "placed",
        "process",
        "recheck_stop",
        "reentries",
        "resume_signal",
        "state",
        "stepping",
        "stop_event",
        "syscall_entry",
        "syscall_mode",
        "tid",
        "trap_action",
        "trap_due",
        "trapped",
        "word",
    )

    def __init__(self, tid: int, process: Process) -> None:
        self.tid = tid
        self.process = process
        self.placed = process.space.placed
        self.word = process.space.architecture.word_size
        """Bytes in a pointer of its program's."""
        self.memory = ProgramMemory(tid)
        self.state = RunState.RUNNING
        self.resume_signal = 0
        """Signal to deliver at the next resumption; 0 for none."""
        self.reentries: list[Any] = []
        """Executions that a signal handler interrupted before their instruction ran."""
        self.past_guard = 0
        """Where the program's own single-step has been passed over, behind a slot's guard."""
        self.stepping: Any = None
        """The hit whose displaced instruction is being single-stepped."""
        self.at_hit: Any = None
        """The site that it has hit and whose displaced instruction it has yet to execute."""
        self.trapped: Any = None
        """The site whose trap it has run into, as long as that is known and not acted on."""
        self.busy: Any = None
        """The hit whose blocking handler has this thread."""
        self.syscall_mode = False
        self.syscall_entry = False
        self.in_mmap = False
        self.after_exec = False
        self.in_vfork = False
        """Waits, uninterruptibly, for its vfork child to exec or exit."""
        self.recheck_stop = False
        """Must be interrupted when resumed, since it was run out of a group-stop."""
        self.interrupted = False
        """PTRACE_INTERRUPT is on its way."""
        self.trap_due = False
        """Its next stop will be a SIGTRAP that is queued already: no need to interrupt it."""
        self.trap_action: bytes | None = None
        """The program's own action for SIGTRAP, as the kernel has it, while it may be running."""
        self.new = False
        """Its first stop has not been seen."""
        self.in_group_stop = False
        """Held by us in a group-stop."""
        self.stop_event = 0
        """The PTRACE_EVENT of the present stop, 0 for a stop on the way to user mode."""
        self.active_calls: dict[Any, list[Any]] = {}
        """Functions with return probes that it is inside of, by the SP after their return."""
        process.threads[tid] = self

    def interrupt(self) -> bool:
        """Ask for a stop; False if the thread is gone."""
        try:
            ptrace_calls.call(ptrace_calls.INTERRUPT, self.tid)
        except TraceeGone:
            return False
        self.interrupted = True
        return True

    def resume(self, number: int = 0) -> None:
        """Let it run on, delivering signal `number`. A thread that is gone stays gone."""
        self.state = RunState.RUNNING
        self.stop_event = 0
        if self.recheck_stop:
            self.recheck_stop = False
            self.interrupt()
        request = ptrace_calls.SYSCALL if self.syscall_mode else ptrace_calls.CONT
        try:
            ptrace_calls.call(request, self.tid, 0, number)
        except TraceeGone:
            # Killed while stopped; its end will be reported by waitpid.
            pass

    def listen(self) -> None:
        """Stay in the group-stop until SIGCONT, as the program would without us."""
        self.state = RunState.LISTENING
        try:
            ptrace_calls.call(ptrace_calls.LISTEN, self.tid)
        except TraceeGone:
            pass

    def detach(self, number: int = 0) -> None:
        """Let go of it for good, delivering signal `number`."""
        self.state = RunState.GONE
        try:
            ptrace_calls.call(ptrace_calls.DETACH, self.tid, 0, number)
        except TraceeGone:
            pass

    def forget(self) -> None:
        """It has ended: no table of ours holds it any more."""
        self.state = RunState.GONE
        self.process.threads.pop(self.tid, None)
