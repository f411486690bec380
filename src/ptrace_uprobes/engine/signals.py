"""A signal that finds its thread in a slot is delivered as if the thread stood in the program.

Rules of the kernel that this relies on (kernel/signal.c, arch/x86/kernel/signal.c):
- a signal-delivery-stop comes before the frame is built, so registers that are changed there
  are what the program's handler sees;
- whether an interrupted system call is restarted is decided after it, from orig_rax and rax;
- a signal that is ignored builds no frame, and the thread goes on where it is.
"""

from __future__ import annotations

import signal
import struct
from typing import Final

from ptrace_uprobes.arch.x86 import I386, of_code_segment
from ptrace_uprobes.engine.placed import (
    REGISTERS_THAT_TELL,
    PlacedSite,
    Reentry,
    SpaceRecord,
)
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.errors import NoSuchProcess
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.process_info import read_status
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.linux.wait_status import STOPPING_SIGNALS
from ptrace_uprobes.ssol.plan import Fixup
from ptrace_uprobes.ssol.scratch import Slot
from ptrace_uprobes.tracee import Thread

__all__ = [
    "ASYNCHRONOUS_SIGNALS",
    "deliver",
    "fingerprint",
    "is_fault",
    "leave_slot",
    "note_reentry",
    "restart_interrupted_wait",
]

_IGNORED_BY_DEFAULT: Final = frozenset(
    {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT}
)
ASYNCHRONOUS_SIGNALS: Final = 0xFFFFFFFFFFFFFFFF & ~sum(1 << (n - 1) for n in ptrace_calls.FAULTS)
"""As a mask: what may be blocked for a moment. A fault of a blocked signal kills."""
_SI_CODE: Final = 8
_TRAP_TRACE: Final = 2
_SI_ADDR: Final = 16  # si_addr and si_call_addr alike
_REENTRIES_KEPT: Final = 64
_LOW: Final = 0xFFFFFFFF
_RF: Final = 1 << 16
_TF: Final = 1 << 8
_EINTR: Final = 4
_ERESTARTNOHAND: Final = 514


def fingerprint(registers: UserRegs, *, any_thread: bool = False) -> bytes:
    """What must be equal for two looks at a thread to be of the same execution.

    `any_thread`: a thread's own base address of thread-local storage does not count.
    """
    if of_code_segment(registers.cs) is I386:
        # The others, and the upper halves, are not of its state: sigreturn leaves them be.
        names = [name for _, name in I386.registers if name != "rip"]
        values = [getattr(registers, name) & _LOW for name in names]
        values[-1] &= ~(_RF | _TF)
        return struct.pack(f"<{len(values)}I", *values)
    values = [
        getattr(registers, name) & ~(_RF | _TF) if name == "eflags" else getattr(registers, name)
        for name in REGISTERS_THAT_TELL
        if not (any_thread and name in ("fs_base", "gs_base"))
    ]
    return struct.pack(f"<{len(values)}Q", *values)


def note_reentry(thread: Thread, placed: PlacedSite, registers: UserRegs) -> None:
    """The displaced instruction was hit and did not run: the next arrival is no new hit.

    Go's handler of SIGURG makes the goroutine give way, and another thread may go on with it.
    """
    reentries = thread.reentries
    if placed.in_go:
        record: SpaceRecord = thread.process.space.extra
        reentries = record.goroutine_reentries
    if len(reentries) >= _REENTRIES_KEPT:
        del reentries[1 if not reentries[0].registers else 0]  # not `TrapHandlers`' mark
    tell = fingerprint(registers, any_thread=placed.in_go)
    reentries.append(Reentry(placed, tell, registers.rsp))


def _note_reentry_at(record: SpaceRecord, thread: Thread, slot: Slot, registers: UserRegs) -> None:
    pc_offset = record.space.architecture.breakpoint_pc_offset
    placed = record.sites().get(slot.site + pc_offset)
    if placed is not None:
        note_reentry(thread, placed, registers)


def apply_fixup(thread: Thread, registers: UserRegs, fixup: Fixup) -> None:
    """Turn a place in a slot into the place in the program that it stands for."""
    thread.past_guard = 0
    registers.rip = fixup.rip
    mask = thread.process.space.architecture.mask
    registers.rsp = (registers.rsp + fixup.sp_delta) & mask
    for name, value in fixup.registers:
        setattr(registers, name, value)
    ptrace_calls.set_registers(thread.tid, registers)


def leave_slot(thread: Thread) -> bool:
    """Put a stopped thread back into the program, if it stands in a slot.

    True if its displaced instruction has still to be executed.
    """
    record: SpaceRecord | None = thread.process.space.extra
    if record is None:
        return False
    slot = record.slots.at(ptrace_calls.peek_user(thread.tid, "rip"))
    if slot is None:
        return False
    registers = ptrace_calls.get_registers(thread.tid)
    fixup = slot.fixup(registers.rip)
    if fixup is None:
        return False
    apply_fixup(thread, registers, fixup)
    if not fixup.executed:
        _note_reentry_at(record, thread, slot, registers)
    return not fixup.executed


def _changes_nothing(thread: Thread, number: int) -> bool:
    """Whether the signal builds no frame and ends nothing: it is ignored, or only stops."""
    try:
        status = read_status(thread.tid)
    except NoSuchProcess:
        return False
    if status.catches(number):
        return False
    return status.ignores(number) or number in _IGNORED_BY_DEFAULT or number in STOPPING_SIGNALS


def _mend_address(tid: int, info: bytearray, slot: Slot) -> None:
    address = struct.unpack_from("<Q", info, _SI_ADDR)[0]
    if slot.start <= address <= slot.end:
        fixup = slot.fixup(address)
        struct.pack_into("<Q", info, _SI_ADDR, fixup.rip if fixup is not None else slot.site)
        ptrace_calls.set_signal_info(tid, info)


def deliver(state: EngineState, thread: Thread, number: int) -> None:
    """Pass a signal on to the program, which sees its own addresses only."""
    record: SpaceRecord | None = thread.process.space.extra
    if record is not None and record.slots.regions:
        slot = record.slots.at(ptrace_calls.peek_user(thread.tid, "rip"))
        if slot is not None:
            if number == signal.SIGTRAP and _is_amid_an_instruction(thread, slot):
                number = 0
            else:
                _deliver_in_slot(record, thread, number, slot)
        else:
            thread.past_guard = 0
    state.resume(thread, number)


def _is_amid_an_instruction(thread: Thread, slot: Slot) -> bool:
    """The program has set TF, and the trap comes between two instructions of the slot that are
    one of the program's: TF is still set, and traps again when that one is done.

    Not at the slot's first: a repeated string instruction traps after each of its iterations.
    But behind a guard the first trap is the guard's.
    """
    rip = ptrace_calls.peek_user(thread.tid, "rip")
    fixup = slot.fixup(rip)
    if fixup is None or fixup.executed:
        return False
    if rip == slot.start + slot.guard_size and (not slot.guard_size or thread.past_guard == rip):
        return False
    info = ptrace_calls.get_signal_info(thread.tid)
    origin: int = struct.unpack_from("<i", info, _SI_CODE)[0]
    if origin != _TRAP_TRACE:
        return False
    thread.past_guard = rip
    return True


def _deliver_in_slot(record: SpaceRecord, thread: Thread, number: int, slot: Slot) -> None:
    info = ptrace_calls.get_signal_info(thread.tid)
    synchronous = is_fault(number, info)
    if not synchronous and _changes_nothing(thread, number):
        return
    registers = ptrace_calls.get_registers(thread.tid)
    fixup = slot.fixup(registers.rip)
    if fixup is None:
        return
    apply_fixup(thread, registers, fixup)
    if synchronous:
        # Should the handler mend the cause and return, that is one more execution.
        thread.reentries = [
            r for r in thread.reentries if not r.registers or r.placed.address != slot.site
        ]
        _mend_address(thread.tid, info, slot)
    elif not fixup.executed:
        _note_reentry_at(record, thread, slot, registers)


def is_fault(number: int, info: bytearray) -> bool:
    """Whether the thread's own instruction caused the signal."""
    origin: int = struct.unpack_from("<i", info, _SI_CODE)[0]
    return number in ptrace_calls.FAULTS and origin > 0


def restart_interrupted_wait(thread: Thread) -> None:
    """Undo what our interrupt does to epoll_wait(2) and its like.

    These answer a stop with EINTR even where no signal handler runs (signal(7)). In a stop of
    our making, ERESTARTNOHAND has the kernel repeat the call if no handler is to run after
    all, and turns into the same EINTR if one is.
    """
    tid = thread.tid
    mask = thread.process.space.architecture.mask
    if ptrace_calls.peek_user(tid, "rax") & mask != -_EINTR & mask:
        return
    if ptrace_calls.peek_user(tid, "orig_rax") & mask > mask >> 1:
        return
    ptrace_calls.call(
        ptrace_calls.POKEUSER, tid, ptrace_calls.USER_OFFSETS["rax"], -_ERESTARTNOHAND
    )
