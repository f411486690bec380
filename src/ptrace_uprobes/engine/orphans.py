"""Children whose parent died before it told us of their birth.

A child of a traced thread is traced from its first instruction on, and stops there. The parent
reports the birth in a stop of its own, PTRACE_EVENT_FORK and the like, and one that is killed, or
ended by a sister's exec, never comes to it (kernel/fork.c, kernel_clone; kernel/signal.c,
ptrace_stop). Its child has a copy of our traps all the same.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from ptrace_uprobes.engine.births import Births
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.engine.state import WAIT_FLAGS, EngineState
from ptrace_uprobes.errors import NoSuchProcess
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.memory import ProcessMemory
from ptrace_uprobes.linux.permission import architecture_of
from ptrace_uprobes.linux.process_info import process_ids, read_status
from ptrace_uprobes.tracee import AddressSpace

__all__ = ["Orphans"]

_LOOK: Final = 64
_PATIENCE: Final = 2.0
_MOMENT: Final = 0.001


class Orphans:
    """Takes such children into the engine's tables, as their parent's event would have."""

    __slots__ = ("_births", "_state")

    def __init__(self, state: EngineState, births: Births) -> None:
        self._state = state
        self._births = births

    def adopt(self) -> None:
        """Of the children that stand in their first stop, those that nobody will report."""
        for tid, status in list(self._state.early.items()):
            try:
                # Whoever comes by another stop is no newborn: the kernel lets it go with us.
                if status >> 16 != ptrace_calls.EVENT_STOP or self._is_reported(tid):
                    continue
                space = self._memory_of(tid)
            except NoSuchProcess:
                continue  # it is gone: its end will be told
            del self._state.early[tid]
            followed = self._state.options.follow_forks and not self._state.detaching
            process = self._state.new_process(tid, space, followed=followed)
            self._state.new_thread(tid, process).new = True
            self._state.put_back(tid, status)

    def are_left(self) -> bool:
        """Whether there are any after the last process that we know of has ended or been let go;
        they are in the tables then. Only when the tracing thread has no doorbell."""
        state = self._state
        try:
            while True:
                tid, status = os.waitpid(-1, WAIT_FLAGS | os.WNOHANG)
                if not tid:
                    break
                if not os.WIFSTOPPED(status):
                    state.note_exit(tid, status)
                elif not state.let_exit(tid, status):
                    state.early[tid] = status
        except ChildProcessError:
            return False
        # One that has not stopped yet, or a child of ours that nobody traces.
        for pid in process_ids():
            if pid not in state.early and self._is_traced(pid):
                self._wait_for_first_stop(pid)
        self.adopt()
        return bool(state.processes)

    def _wait_for_first_stop(self, pid: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                tid, status = os.waitpid(pid, WAIT_FLAGS | os.WNOHANG)
            except ChildProcessError:
                return
            if tid and not os.WIFSTOPPED(status):
                return
            if tid and not self._state.let_exit(tid, status):
                self._state.early[tid] = status
                return
            time.sleep(_MOMENT)

    @staticmethod
    def _is_traced(pid: int) -> bool:
        try:
            return read_status(pid).tracer == threading.get_native_id()
        except NoSuchProcess:
            return False

    def _is_reported(self, tid: int) -> bool:
        """Whether somebody lives who is to report this birth."""
        status = read_status(tid)
        if status.tgid != tid:
            return True  # a thread lives and dies with its process
        parent = self._state.processes.get(status.ppid)
        return parent is not None and not parent.lost_threads

    def _memory_of(self, tid: int) -> AddressSpace:
        for space in self._state.spaces():
            thread = space.any_thread()
            if thread is not None and self._births.share_memory(thread.tid, tid):
                return space
        memory = ProcessMemory(tid)
        try:
            for space in (*self._state.spaces(), *self._state.ended):
                if space.extra is not None and _is_copied_to(memory, space.extra):
                    return self._births.copy_of(space, tid)
        finally:
            memory.close()
        return AddressSpace(tid, architecture_of(tid))


def _is_copied_to(memory: ProcessMemory, record: SpaceRecord) -> bool:
    """Whether anything that we wrote into one memory is in the other."""
    architecture = record.space.architecture
    trap = architecture.breakpoint
    if any(memory.read_some(at, 1) == trap for at in record.traps.addresses()[:_LOOK]):
        return True
    return any(region.is_begun_in(memory, architecture) for region in record.slots.regions)
