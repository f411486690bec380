"""The last resort: the displaced instruction is executed in its slot by a hardware single-step.

A signal that comes before the step's own SIGTRAP is kept until the step is done, so that its
handler finds the thread at the next instruction and not in a slot.
"""

from __future__ import annotations

import struct
from typing import Final

from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord, StepInProgress
from ptrace_uprobes.engine.signals import ASYNCHRONOUS_SIGNALS, note_reentry
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.engine.trap_handlers import TrapHandlers
from ptrace_uprobes.errors import EngineBug
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.linux.signal_queue import send_again
from ptrace_uprobes.linux.wait_status import STOPPING_SIGNALS
from ptrace_uprobes.tracee import RunState, Thread

__all__ = ["Stepper", "registers_at"]

_SI_CODE: Final = 8
_TRAP_BRKPT: Final = 1
_TRAP_TRACE: Final = 2


def registers_at(thread: Thread, placed: PlacedSite) -> UserRegs:
    """The registers of a thread that has hit, as if it had not run into the trap."""
    registers = ptrace_calls.get_registers(thread.tid)
    registers.rip = placed.address
    return registers


class Stepper:
    """Steps threads through slots."""

    __slots__ = ("_state", "_trap_handlers")

    def __init__(self, state: EngineState, trap_handlers: TrapHandlers) -> None:
        self._state = state
        self._trap_handlers = trap_handlers

    def begin(self, thread: Thread, placed: PlacedSite, registers: UserRegs | None) -> None:
        """Have the thread execute the instruction in its slot and stop after it."""
        current: UserRegs = registers if registers is not None else registers_at(thread, placed)
        if placed.slot is None:
            raise EngineBug(f"a step at {placed.address:#x} without a slot")
        if self._state.holds(thread):
            current.rip = placed.address
            ptrace_calls.set_registers(thread.tid, current)
            note_reentry(thread, placed, current)
            self._state.resume(thread)
            return
        scratch = placed.plan.scratch
        borrowed = None
        if scratch is not None:
            borrowed = (scratch[0], getattr(current, scratch[0]))
            setattr(current, scratch[0], scratch[1])
        current.rip = placed.slot
        ptrace_calls.set_registers(thread.tid, current)
        thread.stepping = StepInProgress(placed, borrowed)
        thread.state = RunState.RUNNING
        ptrace_calls.call(ptrace_calls.SINGLESTEP, thread.tid)

    def finish(self, thread: Thread, rip: int) -> bool:
        """The step's SIGTRAP; False if it is some other one. That one may stand for the step's
        as well: two SIGTRAPs of one thread are one (kernel/signal.c, legacy_queue)."""
        info = ptrace_calls.get_signal_info(thread.tid)
        if struct.unpack_from("<i", info, _SI_CODE)[0] not in (_TRAP_TRACE, _TRAP_BRKPT):
            return False
        step: StepInProgress = thread.stepping
        record: SpaceRecord = thread.process.space.extra
        slot = record.slots.at(rip)
        registers = ptrace_calls.get_registers(thread.tid)
        fixup = slot.fixup(rip) if slot is not None else None
        if fixup is not None and not fixup.executed:
            # A repeated string instruction traps after each of its iterations.
            thread.state = RunState.RUNNING
            ptrace_calls.call(ptrace_calls.SINGLESTEP, thread.tid)
            return True
        if fixup is not None:
            registers.rip = fixup.rip
            for name, value in fixup.registers:
                setattr(registers, name, value)
        self._end(thread, registers)
        thread.resume_signal = self._release_signal(thread, step)
        if thread.trap_action is not None:
            # The step's SIGTRAP is forced as well. What is to be delivered is kept meanwhile.
            self._trap_handlers.mend(thread)
        number, thread.resume_signal = thread.resume_signal, 0
        self._state.resume(thread, number)
        return True

    def hold_signal(self, thread: Thread, number: int, info: bytearray) -> bool:
        """Keep a signal that came before the step until the step is done; False if it cannot
        be kept. More of them wait in the kernel, which knows how to.

        One that stops is never kept: the SIGCONT that may follow has nothing to end until it
        is delivered, and is lost (kernel/signal.c, prepare_signal)."""
        step: StepInProgress = thread.stepping
        if step.held is not None or self._state.frozen or number in STOPPING_SIGNALS:
            return False
        step.held = (number, info)
        step.mask = ptrace_calls.get_signal_mask(thread.tid)
        ptrace_calls.set_signal_mask(thread.tid, ASYNCHRONOUS_SIGNALS)
        thread.state = RunState.RUNNING
        ptrace_calls.call(ptrace_calls.SINGLESTEP, thread.tid)
        return True

    @staticmethod
    def _release_signal(thread: Thread, step: StepInProgress) -> int:
        """Undo `hold_signal`; gives the signal to deliver, 0 for none."""
        if step.mask is not None:
            ptrace_calls.set_signal_mask(thread.tid, step.mask)
        if step.held is None:
            return 0
        number, info = step.held
        ptrace_calls.set_signal_info(thread.tid, info)
        return number

    @staticmethod
    def _end(thread: Thread, registers: UserRegs) -> None:
        """Set the registers, a borrowed one to what it was; the thread steps no more."""
        step: StepInProgress = thread.stepping
        thread.stepping = None
        if step.scratch is not None:
            setattr(registers, step.scratch[0], step.scratch[1])
        ptrace_calls.set_registers(thread.tid, registers)
        placed, plan = step.placed, step.placed.plan
        if plan.fix_fip and ptrace_calls.get_fp_instruction_pointer(thread.tid) == placed.slot:
            ptrace_calls.set_fp_instruction(thread.tid, placed.address, plan.fop)

    def cancel(self, thread: Thread) -> None:
        """The thread stopped before, or instead of, its step's end. Where it stands in the slot
        tells whether the instruction has been executed; a later arrival steps anew.

        A held signal is sent again, for the thread to get when it runs on.
        """
        step: StepInProgress | None = thread.stepping
        if step is None:
            return
        registers = ptrace_calls.get_registers(thread.tid)
        self._end(thread, registers)
        if step.mask is not None:
            ptrace_calls.set_signal_mask(thread.tid, step.mask)
        if step.held is not None:
            send_again(thread.process.pid, thread.tid, *step.held)
