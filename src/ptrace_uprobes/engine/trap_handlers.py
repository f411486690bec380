"""The program's own handler of SIGTRAP, kept although we hit inside of it.

A trap's SIGTRAP is forced: where it is blocked, as in the handler of an earlier one, the kernel
unblocks it and puts the default action in the handler's place (kernel/signal.c,
force_sig_info_to_task). So what the handler is is asked before the program enters it, and at hits
from then on, for as long as the signal is found to be blocked, all is put back.
"""

from __future__ import annotations

import signal
from typing import Final

from ptrace_uprobes.engine.placed import PlacedSite, Reentry, SpaceRecord
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.errors import MemoryFault, NoSuchProcess, RemoteCallFailed
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.process_info import read_status
from ptrace_uprobes.remote_syscall import RemoteCalls
from ptrace_uprobes.tracee import Thread

__all__ = ["TrapHandlers"]

_SIGSET_SIZE: Final = 8
_TRAP_BIT: Final = 1 << (signal.SIGTRAP - 1)


class TrapHandlers:
    """Watches threads while they are in such a handler; costs others nothing."""

    __slots__ = ("_regions",)

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def entering(self, thread: Thread) -> None:
        """The thread is about to be given a SIGTRAP of the program's own."""
        record: SpaceRecord | None = thread.process.space.extra
        if record is None or not (record.sites() or record.net is not None):
            return
        try:
            status = read_status(thread.tid)
            if not status.catches(signal.SIGTRAP) or status.seccomp:
                return  # its filter may kill it for a call that it does not make itself
            thread.resume_signal = signal.SIGTRAP  # whose siginfo is kept meanwhile
            try:
                action = self._call(record, thread, None)
                if record.net is not None and record.net.is_of(action):
                    # The program has none, and is about to die: by the kernel's hand, and with the
                    # registers in its core that it had, not with those that a handler returns to.
                    self._call(record, thread, record.net.former)
                    return
            finally:
                thread.resume_signal = 0
        except (NoSuchProcess, RemoteCallFailed, MemoryFault):
            return
        if thread.trap_action is None and record.sites():
            placed = next(iter(record.sites().values()))
            thread.reentries.insert(0, _every_hit_counts(placed))
        thread.trap_action = action

    def mend(self, thread: Thread) -> None:
        """The thread has hit after that: undo what the kernel did to let it."""
        record: SpaceRecord = thread.process.space.extra
        status = read_status(thread.tid)
        if status.catches(signal.SIGTRAP):
            # It was not blocked, so the handler has been left.
            thread.trap_action = None
            thread.reentries = [r for r in thread.reentries if r.registers]
            return
        try:
            self._call(record, thread, thread.trap_action)
        except (RemoteCallFailed, MemoryFault):
            return
        mask = ptrace_calls.get_signal_mask(thread.tid)
        ptrace_calls.set_signal_mask(thread.tid, mask | _TRAP_BIT)

    def _call(self, record: SpaceRecord, thread: Thread, action: bytes | None) -> bytes:
        """What the action is, or has been made."""
        architecture = record.space.architecture
        size = architecture.sigaction_size
        place = ptrace_calls.peek_user(thread.tid, "rsp") - architecture.red_zone - size
        memory = record.space.memory
        kept = memory.read(place, size)

        def work(remote: RemoteCalls) -> int:
            new, old = (place, 0) if action is not None else (0, place)
            number = architecture.system_calls.rt_sigaction
            return remote.syscall(number, signal.SIGTRAP, new, old, _SIGSET_SIZE)

        try:
            if action is not None:
                memory.write(place, action)
            self._regions.call(record, work)
            return memory.read(place, size)
        finally:
            memory.write(place, kept)


def _every_hit_counts(placed: PlacedSite) -> Reentry:
    """Matches no execution; a thread that has one is not served by the innermost loop."""
    return Reentry(placed, b"", 0)
