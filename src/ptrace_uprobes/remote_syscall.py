"""System calls and functions run inside a stopped tracee, its state put back afterwards.

The thread must stand in a stop on its way to user mode: a signal-delivery-stop or
PTRACE_EVENT_STOP. There the kernel has yet to decide whether an interrupted system call is
restarted (arch/x86/kernel/signal.c, arch_do_signal_or_restart), and since each remote call
ends in a signal-delivery-stop too, restoring the registers restores that decision as well.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ptrace_uprobes.errors import RemoteCallFailed
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.linux.wait_status import StopKind, decode_status
from ptrace_uprobes.tracee import Thread

__all__ = ["RemoteCalls", "remote_syscalls"]

_ALL_SIGNALS: Final = 0xFFFFFFFFFFFFFFFF
_NOT_A_SYSCALL: Final = 0xFFFFFFFFFFFFFFFF  # orig_rax = -1
_SYNCHRONOUS: Final = sum(
    1 << (number - 1)
    for number in (
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)
_MAX_ERRNO: Final = 4095
_RETURN_TO_NOWHERE: Final = 0

WaitFor = Callable[[int], int]
"""Blocks until the thread's next stop and gives its raw wait status."""

PutBack = Callable[[int, int], None]
"""Takes a thread's status that is for the engine: how it ended."""


class RemoteCalls:
    """What can be run in the thread while its own state is kept aside."""

    __slots__ = ("_gadget", "_put_back", "_saved", "_thread", "_wait_for")

    def __init__(
        self,
        thread: Thread,
        saved: UserRegs,
        gadget: int,
        wait_for: WaitFor,
        put_back: PutBack,
    ) -> None:
        self._thread = thread
        self._saved = saved
        self._gadget = gadget
        self._wait_for = wait_for
        self._put_back = put_back

    def syscall(self, number: int, *arguments: int) -> int:
        """The result of a system call; raises `RemoteCallFailed` with its errno."""
        architecture = self._thread.process.space.architecture
        registers = self._copy()
        registers.rip = self._gadget
        registers.rax = number
        for name, value in zip(architecture.syscall_argument_registers, arguments, strict=False):
            setattr(registers, name, value & 0xFFFFFFFFFFFFFFFF)
        after = self._run(registers, ptrace_calls.SINGLESTEP, signal.SIGTRAP)
        result: int = ctypes.c_long(after.rax).value
        if -_MAX_ERRNO <= result < 0:
            raise RemoteCallFailed(-result, f"in the tracee: {os.strerror(-result)}")
        return result

    def function(self, address: int, past_trap: Callable[[int], int | None]) -> int:
        """The result of a function of the program without arguments, run on its own stack.

        `past_trap` gives, for the RIP of a reported SIGTRAP, where to go on if it is a trap of
        ours: what we run ourselves is no hit.
        """
        space = self._thread.process.space
        registers = self._copy()
        # SysV ABI 3.2.2: RSP+8 is a multiple of 16 at entry; the red zone is the program's.
        stack = (registers.rsp - 4096 & ~0xF) - 8
        space.memory.write(stack, _RETURN_TO_NOWHERE.to_bytes(8, "little"))
        registers.rsp = stack
        registers.rip = address
        registers.rax = 0
        # Returning to address 0 faults, and that is how the end is seen.
        after = self._run(registers, ptrace_calls.CONT, signal.SIGSEGV, past_trap)
        if after.rip != _RETURN_TO_NOWHERE:
            raise RemoteCallFailed(errno.EFAULT, f"function {address:#x} faulted in the tracee")
        return int(after.rax)

    def _copy(self) -> UserRegs:
        registers = UserRegs.from_buffer_copy(self._saved)
        registers.orig_rax = _NOT_A_SYSCALL
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
            ptrace_calls.call(request, tid)
            raw = self._wait_for(tid)
            status = decode_status(raw)
            if status.kind is StopKind.SIGNAL and status.code == until:
                return ptrace_calls.get_registers(tid)
            if status.kind is StopKind.SIGNAL and status.code == signal.SIGSTOP:
                # Cannot be blocked: swallowed here, sent again when all is done.
                self._thread.resume_signal = signal.SIGSTOP
            elif status.kind is StopKind.GROUP_STOP:
                self._thread.recheck_stop = True
            elif status.kind is StopKind.SIGNAL:
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
            elif status.kind in (StopKind.EXITED, StopKind.KILLED, StopKind.EVENT):
                # It ends, or runs another program that a sister thread has exec'ed.
                self._put_back(tid, raw)
                raise ptrace_calls.TraceeGone(tid)


@contextmanager
def remote_syscalls(
    thread: Thread, gadget: int, wait_for: WaitFor, put_back: PutBack
) -> Iterator[RemoteCalls]:
    """Borrow a stopped thread. `gadget` is the address of a `syscall` instruction in it.

    Signals wait meanwhile, but for those that a fault of ours would raise: blocked, they
    would kill the program (kernel/signal.c, force_sig_info_to_task).
    """
    tid = thread.tid
    saved = ptrace_calls.get_registers(tid)
    mask = ptrace_calls.get_signal_mask(tid)
    ptrace_calls.set_signal_mask(tid, _ALL_SIGNALS & ~_SYNCHRONOUS)
    pending_signal = thread.resume_signal
    info = ptrace_calls.get_signal_info(tid) if pending_signal else None
    thread.resume_signal = 0
    try:
        yield RemoteCalls(thread, saved, gadget, wait_for, put_back)
    finally:
        try:
            ptrace_calls.set_registers(tid, saved)
            ptrace_calls.set_signal_mask(tid, mask)
        except ptrace_calls.TraceeGone:
            # Killed while we had it; its end is reported like any other.
            pass
        else:
            if info is not None:
                if thread.resume_signal == signal.SIGSTOP:
                    os.kill(thread.process.pid, signal.SIGSTOP)
                thread.resume_signal = pending_signal
                ptrace_calls.set_signal_info(tid, info)
