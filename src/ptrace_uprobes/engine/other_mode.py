"""Hits of code that runs in the mode that its program's architecture does not have: 32-bit code in
a 64-bit process, or 64-bit code in a 32-bit one (`ssol/mode_guard.py` says how that is noticed).

The same bytes are another instruction there. It is planned for that mode when that first happens,
and executed so; where it cannot be, the trap goes, and the probe is told of a miss.
"""

from __future__ import annotations

from typing import Final

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import I386, X86_64
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.planting import Planter
from ptrace_uprobes.engine.signals import note_reentry
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.ssol.plan import Mechanism, plan
from ptrace_uprobes.ssol.scratch import Slot
from ptrace_uprobes.tracee import Thread

__all__ = ["CAUSE", "OtherMode"]

CAUSE: Final = "run by code of the other mode, 32-bit or 64-bit, for which it is no instruction"


class OtherMode:
    """Finds how a site's bytes are executed in the mode that the site was not planned for."""

    __slots__ = ("_planter", "_state")

    def __init__(self, state: EngineState, planter: Planter) -> None:
        self._state = state
        self._planter = planter

    def site_of(self, thread: Thread, slot: Slot) -> PlacedSite | None:
        """For a thread that has run into a slot's guard; None if it is to be resumed as it is."""
        record: SpaceRecord = thread.process.space.extra
        placed = record.existing(slot.site)
        registers = ptrace_calls.get_registers(thread.tid)
        registers.rip = slot.site
        if self._state.frozen or placed is None:
            # Back to the site, which it has reached already.
            ptrace_calls.set_registers(thread.tid, registers)
            if placed is not None:
                note_reentry(thread, placed, registers)
            return None
        return self.planned(thread, placed, registers)

    def planned(self, thread: Thread, placed: PlacedSite, registers: UserRegs) -> PlacedSite | None:
        """What executes the site's bytes in the thread's mode; None if nothing can. Then the thread
        stands at the site, which has lost its trap. `registers` are those at the site."""
        record: SpaceRecord = thread.process.space.extra
        known = record.other_modes.get(placed.address)
        if known is None:
            known = record.other_modes[placed.address] = self._plan(record, placed)
        if known.plan.mechanism is not Mechanism.REFUSE:
            return known
        self.give_up(thread, placed, registers, CAUSE)
        return None

    def give_up(self, thread: Thread, placed: PlacedSite, registers: UserRegs, cause: str) -> None:
        """Take the trap out for good, and have the thread stand at the site."""
        for count in placed.all_counts:
            if not count.probe.hidden:
                count.missed += 1
                count.probe.miss(cause)
                self._state.warn_once(
                    f"{count.probe.spec}: no trap at {placed.address:#x} any more: {cause}"
                )
        placed.abandon()
        self._planter.disarm_unwanted(thread.process.space.extra)
        ptrace_calls.set_registers(thread.tid, registers)

    def _plan(self, record: SpaceRecord, placed: PlacedSite) -> PlacedSite:
        other: Architecture = I386 if record.space.architecture is X86_64 else X86_64
        code = record.traps.read_some(placed.address, other.max_instruction_size)
        made = PlacedSite(placed.address, plan(code, placed.address, other), other)
        self._planter.slots.make_besides(record, made, other)
        return made
