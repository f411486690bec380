"""The program's own handler of SIGTRAP, kept although we hit inside of it.

A trap's SIGTRAP is forced: where it is blocked, as in the handler of an earlier one, the kernel
unblocks it and puts the default action in the handler's place (kernel/signal.c,
force_sig_info_to_task). So what the handler is is asked before the program enters it, and at hits
from then on, for as long as the signal is found to be blocked, all is put back.

The last resort (`engine.safety_net`) goes the same way where a thread hits that blocks SIGTRAP, as
threads do that leave all signals to others. That it is gone is looked for now and then, and a
thread at a hit puts it back: one in a system call would have to be interrupted.
"""

from __future__ import annotations

import signal
import time
from itertools import islice
from typing import Final

from ptrace_uprobes.engine.placed import PlacedSite, Reentry, SpaceRecord
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.errors import MemoryFault, NoSuchProcess, NoThreadToUse, RemoteCallFailed
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.process_info import read_status
from ptrace_uprobes.remote_syscall import RemoteCalls
from ptrace_uprobes.tracee import Thread

__all__ = ["TrapHandlers"]

_SIGSET_SIZE: Final = 8
_TRAP_BIT: Final = 1 << (signal.SIGTRAP - 1)
_LAST_RESORT: Final = b""
"""As `Thread.trap_action`: what is to be put back is the last resort."""
_WATCH_SECONDS: Final = 0.1
_WATCHED_AT_ONCE: Final = 4
"""Address spaces: each costs a read of /proc/PID/status, some 30 us."""


class TrapHandlers:
    """Watches threads while they are in such a handler; costs others nothing."""

    __slots__ = ("_regions", "_state", "_turn", "_watch_at")

    def __init__(self, state: EngineState, regions: Regions) -> None:
        self._state = state
        self._regions = regions
        self._watch_at = 0.0
        self._turn = 0

    def watch(self) -> None:
        """Between hits: find last resorts that are gone."""
        now = time.monotonic()
        if now < self._watch_at:
            return
        self._watch_at = now + _WATCH_SECONDS
        spaces = self._state.spaces()
        if self._turn >= len(spaces):
            self._turn = 0
        for space in islice(spaces, self._turn, self._turn + _WATCHED_AT_ONCE):
            if self._has_lost_net(space.extra):
                for thread in space.threads():
                    if thread.trap_action is None:
                        thread.trap_action = _LAST_RESORT
                    self._watch_hits(space.extra, thread)
        self._turn += _WATCHED_AT_ONCE

    @staticmethod
    def _has_lost_net(record: SpaceRecord | None) -> bool:
        """Where it can be put back; the program may have put SIG_DFL there itself."""
        if record is None or record.net is None or not record.sites():
            return False
        thread = record.space.any_thread()
        if thread is None or len(record.space.processes) > 1:
            return False  # a vfork child's actions are its own
        try:
            status = read_status(thread.tid)
        except NoSuchProcess:
            return False
        taken = status.catches(signal.SIGTRAP) or status.ignores(signal.SIGTRAP)
        return not (taken or status.seccomp)  # as in `entering`

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
        if record.sites():
            self._watch_hits(record, thread)
        thread.trap_action = action

    def mend(self, thread: Thread) -> None:
        """The thread has hit after that: undo what the kernel did to let it."""
        record: SpaceRecord = thread.process.space.extra
        if thread.trap_action == _LAST_RESORT:
            self._put_net_back(record, thread)
            return
        status = read_status(thread.tid)
        if status.catches(signal.SIGTRAP):
            # It was not blocked, so the handler has been left.
            self._leave(thread)
            return
        try:
            self._call(record, thread, thread.trap_action)
        except (RemoteCallFailed, MemoryFault):
            return
        mask = ptrace_calls.get_signal_mask(thread.tid)
        ptrace_calls.set_signal_mask(thread.tid, mask | _TRAP_BIT)

    def _put_net_back(self, record: SpaceRecord, at_hit: Thread) -> None:
        for thread in record.space.threads():
            if thread.trap_action == _LAST_RESORT:
                self._leave(thread)
        net = record.net
        if net is None or not self._has_lost_net(record):
            return

        def work(remote: RemoteCalls) -> int:
            net.hang_again(remote, record.space.memory)
            return 0

        try:
            self._regions.call(record, work)
        except (RemoteCallFailed, MemoryFault, NoThreadToUse):
            pass  # it is missed again at the next look
        except ptrace_calls.TraceeGone as gone:
            if gone.tid == at_hit.tid:
                raise  # else it was another that stood still

    @staticmethod
    def _watch_hits(record: SpaceRecord, thread: Thread) -> None:
        """Have `mend` called at its next one."""
        if all(reentry.registers for reentry in thread.reentries):
            placed = next(iter(record.sites().values()))
            thread.reentries.insert(0, _every_hit_counts(placed))

    @staticmethod
    def _leave(thread: Thread) -> None:
        thread.trap_action = None
        thread.reentries = [r for r in thread.reentries if r.registers]

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
