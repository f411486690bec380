"""System calls and functions run inside a stopped tracee, its state put back afterwards.

The thread must stand in a stop on its way to user mode: a signal-delivery-stop or
PTRACE_EVENT_STOP. There the kernel has yet to decide whether an interrupted system call is
restarted (arch/x86/kernel/signal.c, arch_do_signal_or_restart), and since each remote call
ends in a signal-delivery-stop too, restoring the registers restores that decision as well.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.arch.x86 import of_code_segment
from ptrace_uprobes.errors import RemoteCallFailed
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ledger import Ledger
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.linux.signal_queue import send_again
from ptrace_uprobes.linux.wait_status import StopKind, WaitStatus, decode_status
from ptrace_uprobes.tracee import Thread

__all__ = ["Gadget", "RemoteCalls", "remote_syscalls"]

_ALL_SIGNALS: Final = 0xFFFFFFFFFFFFFFFF
_NOT_A_SYSCALL: Final = 0xFFFFFFFFFFFFFFFF  # orig_rax = -1
_SYNCHRONOUS: Final = sum(1 << (number - 1) for number in ptrace_calls.FAULTS)
_MAX_ERRNO: Final = 4095
_SI_CODE: Final = 8
_SYSCALL_SIZE: Final = 2

WaitFor = Callable[[int], int]
"""Blocks until the thread's next stop and gives its raw wait status."""

PutBack = Callable[[int, int], None]
"""Takes a thread's status that is for the engine: how it ended."""


@dataclass(frozen=True, slots=True)
class Gadget:
    """Where a borrowed thread executes its `syscall` instruction."""

    address: int
    ledger: Ledger | None = None
    """Set if a jump to itself follows the instruction, and room for the guardian: should we be
    killed, the thread waits there for its own state."""
    returns_to: int = 0
    """Where functions may return to: an int3, and behind it another such jump. 0: nowhere."""
    before: bytes = b""
    """What stood in the program in the place of all this."""


class RemoteCalls:
    """What can be run in the thread while its own state is kept aside."""

    __slots__ = ("_gadget", "_put_back", "_saved", "_thread", "_wait_for", "deliver_first", "held")

    def __init__(
        self,
        thread: Thread,
        saved: UserRegs,
        gadget: Gadget,
        wait_for: WaitFor,
        put_back: PutBack,
    ) -> None:
        self._thread = thread
        self._saved = saved
        self._gadget = gadget
        self._wait_for = wait_for
        self._put_back = put_back
        self.deliver_first = 0
        """A signal that the thread's next run begins with."""
        self.held: list[tuple[int, bytearray]] = []
        """Signals that someone sent meanwhile and that we could not block: number and siginfo."""

    def syscall(self, number: int, *arguments: int) -> int:
        """The result of a system call; raises `RemoteCallFailed` with its errno."""
        architecture = self._thread.process.space.architecture
        registers = self._copy()
        registers.rip = self._gadget.address
        registers.rax = number
        for name, value in zip(architecture.syscall_argument_registers, arguments, strict=False):
            setattr(registers, name, value & architecture.mask)
        if self._gadget.ledger is not None:
            after = self._run_to_jump(registers)
        else:
            after = self._run(registers, ptrace_calls.SINGLESTEP, signal.SIGTRAP)
        result: int = after.rax & architecture.mask
        code = architecture.mask + 1 - result
        if code <= _MAX_ERRNO:
            raise RemoteCallFailed(code, f"in the tracee: {os.strerror(code)}")
        return result

    def function(self, address: int, past_trap: Callable[[int], int | None]) -> int:
        """The result of a function of the program without arguments, run on its own stack.

        `past_trap` gives, for the RIP of a reported SIGTRAP, where to go on if it is a trap of
        ours: what we run ourselves is no hit.
        """
        space = self._thread.process.space
        registers = self._copy()
        # SysV ABI 3.2.2: SP plus a word is a multiple of 16 at entry; the red zone is the
        # program's.
        word = space.architecture.word_size
        stack = (registers.rsp - 4096 & ~0xF) - word
        back = self._gadget.returns_to
        space.memory.write(stack, back.to_bytes(word, "little"))
        registers.rsp = stack
        registers.rip = address
        registers.rax = 0
        # Returning to address 0 faults, and that is how the end is seen.
        until = signal.SIGTRAP if back else signal.SIGSEGV
        end = back + space.architecture.breakpoint_pc_offset if back else 0
        after = self._run(registers, ptrace_calls.CONT, until, past_trap)
        if after.rip != end:
            raise RemoteCallFailed(errno.EFAULT, f"function {address:#x} faulted in the tracee")
        return int(after.rax) & space.architecture.mask

    def _copy(self) -> UserRegs:
        registers = UserRegs.from_buffer_copy(self._saved)
        registers.orig_rax = _NOT_A_SYSCALL
        architecture = self._thread.process.space.architecture
        if of_code_segment(registers.cs) is not architecture:
            # What is to run is the program's kind of code, whatever the thread's is just now.
            registers.cs = architecture.code_segment
        return registers

    def _run(
        self,
        registers: UserRegs,
        request: int,
        until: int,
        past_trap: Callable[[int], int | None] | None = None,
    ) -> UserRegs:
        tid = self._thread.tid
        ptrace_calls.set_registers(tid, registers)
        while True:
            deliver, self.deliver_first = self.deliver_first, 0
            ptrace_calls.call(request, tid, 0, deliver)
            raw = self._wait_for(tid)
            status = decode_status(raw)
            if status.kind is StopKind.SIGNAL and self._hold(status.code):
                # One that was pending when the step's own SIGTRAP was due has taken its place:
                # of a standard signal there is never a second (kernel/signal.c, legacy_queue).
                after = ptrace_calls.get_registers(tid)
                if request == ptrace_calls.SINGLESTEP and after.rip != registers.rip:
                    return after
                continue
            if status.kind is StopKind.SIGNAL and status.code == until:
                after = ptrace_calls.get_registers(tid)
                beyond = past_trap(after.rip) if past_trap is not None else None
                if beyond is None:
                    return after
                after.rip = beyond
                ptrace_calls.set_registers(tid, after)
                continue
            if self._is_of_job_control(status):
                continue
            if status.kind is StopKind.SIGNAL:
                after = ptrace_calls.get_registers(tid)
                beyond = past_trap(after.rip) if past_trap is not None else None
                if status.code == signal.SIGTRAP and beyond is not None:
                    after.rip = beyond
                    ptrace_calls.set_registers(tid, after)
                    continue
                raise RemoteCallFailed(
                    errno.EFAULT,
                    f"{signal.Signals(status.code).name} at {after.rip:#x} in the tracee",
                )
            self._check_alive(status, raw)

    def _run_to_jump(self, registers: UserRegs) -> UserRegs:
        """One system call, up to the jump behind it, without a trap that could outlive us.

        From the stop at its entry on an interrupt is due, which stops the thread at its end: on
        the way to user mode, as the module's text asks for.
        """
        tid = self._thread.tid
        end = self._gadget.address + _SYSCALL_SIZE
        ptrace_calls.set_registers(tid, registers)
        entered = False
        while True:
            if entered:
                # Again each time: any other stop takes the interrupt with it.
                ptrace_calls.call(ptrace_calls.INTERRUPT, tid)
            deliver, self.deliver_first = self.deliver_first, 0
            request = ptrace_calls.CONT if entered else ptrace_calls.SYSCALL
            ptrace_calls.call(request, tid, 0, deliver)
            raw = self._wait_for(tid)
            status = decode_status(raw)
            if status.kind is StopKind.SYSCALL:
                entered = True
                continue
            if status.kind is StopKind.SIGNAL and self._hold(status.code):
                continue
            if self._is_of_job_control(status) and status.kind is StopKind.SIGNAL:
                continue
            if status.kind in (StopKind.EVENT_STOP, StopKind.GROUP_STOP):
                after = ptrace_calls.get_registers(tid)
                if after.rip == end:
                    return after
            elif status.kind is StopKind.SIGNAL:
                at = ptrace_calls.peek_user(tid, "rip")
                name = signal.Signals(status.code).name
                raise RemoteCallFailed(errno.EFAULT, f"{name} at {at:#x} in the tracee")
            self._check_alive(status, raw)

    def _is_of_job_control(self, status: WaitStatus) -> bool:
        if status.kind is StopKind.SIGNAL and status.code == signal.SIGSTOP:
            # Cannot be blocked, and cannot be kept: a SIGCONT that follows ends a stop that has
            # begun, and is lost on one that we would begin later. So it stops here.
            self.deliver_first = signal.SIGSTOP
            return True
        if status.kind is StopKind.GROUP_STOP:
            # Run out of it; an interrupt brings it back when all is done, if it still holds.
            self._thread.recheck_stop = True
            return True
        return False

    def _check_alive(self, status: WaitStatus, raw: int) -> None:
        if status.kind in (StopKind.EXITED, StopKind.KILLED, StopKind.EVENT):
            # It ends, or runs another program that a sister thread has exec'ed.
            self._put_back(self._thread.tid, raw)
            raise ptrace_calls.TraceeGone(self._thread.tid)

    def _hold(self, number: int) -> bool:
        """Keep a signal that the program was sent; False for one that our own code raised."""
        if not _SYNCHRONOUS & 1 << (number - 1):
            return False
        info = ptrace_calls.get_signal_info(self._thread.tid)
        origin: int = struct.unpack_from("<i", info, _SI_CODE)[0]
        if origin > 0:  # the kernel's (sigaction(2), si_code)
            return False
        self.held.append((number, info))
        return True


@contextmanager
def remote_syscalls(
    thread: Thread, gadget: Gadget, wait_for: WaitFor, put_back: PutBack
) -> Iterator[RemoteCalls]:
    """Borrow a stopped thread.

    Signals wait meanwhile, but for those that a fault of ours would raise: blocked, they
    would kill the program (kernel/signal.c, force_sig_info_to_task).
    """
    tid = thread.tid
    saved = ptrace_calls.get_registers(tid)
    mask = ptrace_calls.get_signal_mask(tid)
    ledger = gadget.ledger
    if ledger is not None:
        space = thread.process.space
        ledger.park(
            space.serial,
            tid,
            gadget.address,
            gadget.before,
            mask,
            bytes(saved),
            space.architecture.word_size,
        )
        # Its mask is not its own only while it stands at the gadget.
        waiting = UserRegs.from_buffer_copy(saved)
        waiting.orig_rax = _NOT_A_SYSCALL
        waiting.rip = gadget.address + _SYSCALL_SIZE
        if of_code_segment(saved.cs) is not space.architecture:
            waiting.cs = space.architecture.code_segment  # for it is that kind of way out
        ptrace_calls.set_registers(tid, waiting)
    ptrace_calls.set_signal_mask(tid, _ALL_SIGNALS & ~_SYNCHRONOUS)
    pending_signal = thread.resume_signal
    thread.resume_signal = 0
    calls = RemoteCalls(thread, saved, gadget, wait_for, put_back)
    if pending_signal == signal.SIGSTOP:
        pending_signal, calls.deliver_first = 0, pending_signal
    info = ptrace_calls.get_signal_info(tid) if pending_signal else None

    def give_back(pending: int, facts: bytearray | None) -> None:
        try:
            ptrace_calls.set_signal_mask(tid, mask)
            ptrace_calls.set_registers(tid, saved)
        except ptrace_calls.TraceeGone:
            return  # killed while we had it; its end is reported like any other
        if facts is None and calls.held and ledger is None:
            # From the stop in which a jump has left the thread no signal can be delivered.
            pending, facts = calls.held.pop(0)
        for number, held in calls.held:
            send_again(thread.process.pid, tid, number, held)
        thread.resume_signal = pending or calls.deliver_first
        if facts is not None:
            ptrace_calls.set_signal_info(tid, facts)

    try:
        yield calls
    except ptrace_calls.TraceeGone:
        # Its end is reported like any other. Or a sister's exec has taken its number: what it had
        # in its registers would send the new program astray.
        raise
    except BaseException:
        give_back(pending_signal, info)
        raise
    else:
        give_back(pending_signal, info)
    finally:
        if ledger is not None:
            ledger.unpark()
