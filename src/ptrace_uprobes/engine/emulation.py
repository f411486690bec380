"""The displaced instruction computed by the tracer, or by the processor in its slot after all.

Natively a program that has set TF is stopped behind each of its instructions. The processor does
that behind a slot as well; behind what the tracer has computed the stop that the hit is in becomes
the one of TF. Then one thing may not be as it would be: the frame of the program's handler tells of
a breakpoint (vector 3, not 1) if that was the last that the kernel has noted for the thread
(`thread.trap_nr`), which no request of ptrace changes.
"""

from __future__ import annotations

import struct
from typing import Final

from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.engine.signals import note_reentry
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import SIGINFO_SIZE, UserRegs
from ptrace_uprobes.tracee import Thread

__all__ = ["NO_SLOT_FOR_ITS_FAULT", "compute", "make_it_the_trap_of_a_step"]

NO_SLOT_FOR_ITS_FAULT: Final = "it met a fault there, and no memory could be had to execute it in"
_TF: Final = 0x100
_SIGTRAP: Final = 5
_TRAP_TRACE: Final = 2
_SIGINFO: Final = struct.Struct("<iii4xQ")
"""si_signo, si_errno, si_code, si_addr."""


def compute(thread: Thread, placed: PlacedSite, registers: UserRegs) -> bool | None:
    """Set `registers`, those of a thread at a site, to what they are after the instruction, or to
    its slot. True if the program has set TF and has the trap of it still to come; None if the
    instruction faults and there is no slot for that: then nothing has changed."""
    steps_itself = bool(registers.eflags & _TF)
    slot = placed.slot
    if steps_itself and slot is not None and placed.plan.slot_serves(registers):
        registers.rip = slot
        return False
    try:
        placed.plan.emulate(registers, thread.memory)
    except MemoryFault:
        # The instruction faults: let it, natively, for the kernel to tell the program, or to have
        # the stack grow. Nothing has changed yet (`Plan.emulate`).
        if slot is None:
            return None
        if placed.plan.slot_leads_back:
            note_reentry(thread, placed, registers)  # that is no new hit
        registers.rip = slot
        return False
    return steps_itself


def make_it_the_trap_of_a_step(thread: Thread, address: int) -> None:
    """Turn the SIGTRAP of a thread that has hit into the one that TF raises; as the kernel fills
    it in (`send_sigtrap` of arch/x86/kernel/ptrace.c). Raises `TraceeGone`."""
    info = bytearray(SIGINFO_SIZE)
    _SIGINFO.pack_into(info, 0, _SIGTRAP, 0, _TRAP_TRACE, address)
    ptrace_calls.set_signal_info(thread.tid, info)
