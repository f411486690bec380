"""The code of one slot, and what each point in it means to the original program."""

from __future__ import annotations

from dataclasses import dataclass

from ptrace_uprobes.addresses import VirtAddr

__all__ = ["Fixup", "SlotCode"]


@dataclass(frozen=True, slots=True)
class Fixup:
    """What a thread at one instruction boundary of a slot would be doing without us.

    A signal, a fault or a detach can find a thread at any of them.
    """

    offset: int
    """Inside the slot's code."""
    rip: VirtAddr
    """The original program's RIP at this point."""
    executed: bool
    """False: the displaced instruction has not taken effect, and `rip` is its address."""
    sp_delta: int = 0
    """To add to RSP, to undo the push of a call that has not yet jumped."""
    registers: tuple[tuple[str, int], ...] = ()
    """Registers that the rest of the slot would set."""


@dataclass(frozen=True, slots=True)
class SlotCode:
    """Bytes for one place, and a fixup for each instruction boundary in them."""

    code: bytes
    fixups: tuple[Fixup, ...]
    other_mode_offset: int | None = None
    """Where RIP is reported if code of the other mode, 32-bit or 64-bit, has come to it."""
    guard_size: int = 0
    """What of it comes before the displaced instruction, to tell the modes apart."""
