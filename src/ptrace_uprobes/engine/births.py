"""Threads and processes that come, exec and go (ptrace(2), PTRACE_EVENT stops).

Rules of the kernel: a child's first stop may be reported before its parent's event; exec in
a thread that is not the leader gives it the leader's tid and ends all others; a child made
with CLONE_VM, as by vfork, shares its parent's memory, and so its traps, until it execs.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Final

from ptrace_uprobes.engine.libraries import Libraries
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.engine.returns import Returns
from ptrace_uprobes.engine.semaphores import sync_semaphores
from ptrace_uprobes.engine.signals import leave_slot
from ptrace_uprobes.engine.state import EngineState, record_of
from ptrace_uprobes.errors import MemoryFault, NoSuchProcess, UprobesError
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.permission import architecture_of
from ptrace_uprobes.linux.process_info import read_status, started_at
from ptrace_uprobes.tracee import AddressSpace, Process, RunState, Thread

__all__ = ["Births"]

_SYS_KCMP: Final = 312
_KCMP_VM: Final = 1
_CLONE_VM: Final = 0x100

_libc = ctypes.PyDLL(None)
_libc.syscall.restype = ctypes.c_long


class Births:
    """Keeps the engine's tables in step with what the program's threads do."""

    __slots__ = ("_libraries", "_regions", "_returns", "_state", "refusal")

    def __init__(
        self, state: EngineState, libraries: Libraries, regions: Regions, returns: Returns
    ) -> None:
        self._state = state
        self._libraries = libraries
        self._regions = regions
        self._returns = returns
        self.refusal: UprobesError | None = None
        """Why the last program that was left to itself at its exec cannot be probed."""

    def on_event(self, thread: Thread, event: int) -> None:
        """A PTRACE_EVENT stop of a known thread."""
        thread.stop_event = event
        if event in (
            ptrace_calls.EVENT_FORK,
            ptrace_calls.EVENT_VFORK,
            ptrace_calls.EVENT_CLONE,
        ):
            self._on_birth(thread, event)
        elif event == ptrace_calls.EVENT_VFORK_DONE:
            thread.in_vfork = False
            record: SpaceRecord | None = thread.process.space.extra
            if record is not None and record.deferred and record.relocated:
                # IFUNC resolvers had no thread to run in while this one waited.
                self._state.resume(thread)
                self._libraries.replant(record)
                return
        elif event == ptrace_calls.EVENT_EXIT:
            # A leader that exits before its other threads is not heard of again until they have.
            thread.resume()
            thread.state = RunState.GONE
            return
        elif event == ptrace_calls.EVENT_EXEC:
            self._on_exec(thread)
            return
        self._state.resume(thread)

    def on_end(self, thread: Thread, status: int) -> None:
        """The thread has exited or was killed."""
        state = self._state
        process = thread.process
        leader = thread.tid == process.pid
        space = process.space
        self._returns.thread_ended(thread)
        state.forget_thread(thread)
        if leader:
            state.note_exit(process.pid, status)
            # Its end is reported after all others' (kernel/exit.c, delay_group_leader). One that
            # is left was in an exec, has taken the leader's number, and was killed before the
            # exec was reported: nobody will tell of it under its own.
            for other in list(process.threads.values()):
                self._returns.thread_ended(other)
                state.forget_thread(other)
        if not space.processes and space.extra is not None:
            self._returns.space_ended(space.extra)

    # -- birth

    def _on_birth(self, parent: Thread, event: int) -> None:
        state = self._state
        child = ptrace_calls.get_event_message(parent.tid)
        if event == ptrace_calls.EVENT_VFORK:
            parent.in_vfork = True
        try:
            status = read_status(child)
        except NoSuchProcess:
            state.early.pop(child, None)
            return
        if child in state.threads or status.tracer != threading.get_native_id():
            return  # taken for an orphan, and let go by now
        tgid = status.tgid
        if state.placement is not None:
            state.placement.inherit(child, parent.tid)
        if tgid == parent.process.pid:
            state.new_thread(child, parent.process).new = True
        else:
            shared = event == ptrace_calls.EVENT_VFORK or self._shares_memory(parent, child)
            space = parent.process.space
            if not shared:
                space = self.copy_of(space, child)
            process = state.new_process(tgid, space, followed=state.options.follow_forks)
            state.new_thread(child, process).new = True
            self._returns.inherit(state.threads[child], parent)
            if not shared and space.extra is not None and len(space.extra.traps):
                state.guard.cover(space.extra)
        # Runs until its first stop is seen, which may have been already.
        first = state.early.pop(child, None)
        if first is not None:
            state.events.append((child, first))

    def on_first_stop(self, thread: Thread) -> bool:
        """The PTRACE_EVENT_STOP that a new child begins with; False if it is not to be traced."""
        process = thread.process
        if not self._is_copy(process):
            return True
        if process.followed:
            # Traps that the parent got while it forked are not in the copy yet.
            try:
                self._libraries.adopt(record_of(process.space))
            except MemoryFault:
                # Killed in this very stop: its memory goes first, and its end is told later.
                ptrace_calls.peek_user(thread.tid, "rip")
                raise
            return True
        self.let_go(thread)
        return False

    def let_go(self, thread: Thread) -> None:
        """Leave a child to itself, its copy of our traps and slots taken out."""
        record: SpaceRecord | None = thread.process.space.extra
        try:
            if record is not None:
                leave_slot(thread)
                sync_semaphores(record, wanted=False)
                record.traps.disarm(record.traps.addresses(), joined=True)
                self._regions.release(record, thread)
            if self._state.placement is not None:
                self._state.placement.restore(thread.tid)
            thread.detach(thread.resume_signal)
        except ptrace_calls.TraceeGone:
            pass
        except UprobesError as error:
            self._state.warn_once(f"child {thread.tid} could not be cleaned: {error}")
            thread.detach()
        self._state.forget_thread(thread)

    def _is_copy(self, process: Process) -> bool:
        """Whether the process has memory of its own, not its parent's."""
        return len(process.space.processes) == 1

    def _shares_memory(self, parent: Thread, child: int) -> bool:
        """CLONE_VM without CLONE_THREAD: as kcmp(2) says, or the call's own flags."""
        shared = self.share_memory(parent.tid, child)
        if shared is not None:
            return shared
        registers = ptrace_calls.get_registers(parent.tid)
        architecture = parent.process.space.architecture
        calls = architecture.system_calls
        first = getattr(registers, architecture.syscall_argument_registers[0])
        if registers.orig_rax == calls.clone:
            return bool(first & _CLONE_VM)
        if registers.orig_rax == calls.clone3:
            data = parent.process.space.memory.read_some(first & architecture.mask, 8)
            return bool(int.from_bytes(data, "little") & _CLONE_VM)
        return bool(registers.orig_rax == calls.vfork)

    @staticmethod
    def share_memory(one: int, other: int) -> bool | None:
        """Whether two threads have the same memory; None if the kernel does not tell."""
        result: int = _libc.syscall(_SYS_KCMP, one, other, _KCMP_VM, 0, 0)
        return result == 0 if result >= 0 else None

    def copy_of(self, space: AddressSpace, child: int) -> AddressSpace:
        """The engine's record of a forked child's memory: traps and slots are there too."""
        copy = AddressSpace(child, space.architecture)
        old: SpaceRecord | None = space.extra
        if old is None:
            return copy
        forked_at = started_at(child)
        new = SpaceRecord(
            copy,
            old.traps.copy_for(copy.memory, space.architecture, forked_at),
            old.slots.copy_for(copy.memory, forked_at),
            retired=dict(old.retired),
            modules=old.modules,
            mappings=old.mappings,
            planted=set(old.planted),
            unloadable=set(old.unloadable),
            starting=old.starting,
            relocated=old.relocated,
            rendezvous=old.rendezvous,
            r_debug=old.r_debug,
            semaphores=dict(old.semaphores),
            no_mmap=old.no_mmap,
            net=old.net,
            no_net=old.no_net,
        )
        copy.placed = dict(space.placed)
        copy.extra = new
        new.slots.keep_mapped()
        if new.net is not None and new.slots.region_of(new.net.start) is None:
            new.net = None  # the fork came before it
        return copy

    # -- exec

    def _on_exec(self, thread: Thread) -> None:
        state = self._state
        process = thread.process
        former = ptrace_calls.get_event_message(thread.tid)
        process.lost_threads = process.lost_threads or len(process.threads) > 1
        for other in list(process.threads.values()):
            self._returns.thread_ended(other)
            if other is not thread:
                state.forget_thread(other)
        if former != thread.tid:
            state.threads.pop(former, None)
        thread.reentries.clear()
        thread.stepping = None
        thread.syscall_mode = thread.in_vfork = False
        thread.trapped = thread.busy = None
        state.processes[process.pid] = process
        try:
            architecture = architecture_of(process.pid)
        except UprobesError as error:
            state.warn(f"{error}; it is left to itself")
            self.refusal = error
            self._leave_exec(thread, process)
            return
        old: SpaceRecord | None = process.space.extra
        if old is not None and self._is_copy(process):
            old.traps.abandon()
            self._returns.space_ended(old)
        if self._is_copy(process):
            state.note_end_of(process.space)
        process.move_to(AddressSpace(process.pid, architecture))
        if not process.followed:
            # A vfork child that was traced only for its parent's memory is free now.
            thread.detach()
            state.forget_thread(thread)
            return
        process.exec_count += 1
        # Until `begin_program` has looked: nothing is mapped that could be called unknown.
        record_of(process.space).starting = True
        # In this stop the kernel still has to return from execve and would overwrite what
        # we put into rax; the next stop is in front of the program's first instruction.
        thread.after_exec = True
        thread.interrupt()
        thread.resume()

    def _leave_exec(self, thread: Thread, process: Process) -> None:
        process.launched = False
        thread.detach()
        self._state.forget_thread(thread)

    def begin_program(self, thread: Thread) -> None:
        """The stop before a program's first instruction."""
        thread.after_exec = False
        record_of(thread.process.space)
        self._libraries.begin_program(thread)
