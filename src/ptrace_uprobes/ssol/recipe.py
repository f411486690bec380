"""How one class of instructions is treated; a constant, shared by all sites of the class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.ssol.mechanism import Mechanism, Refusal
from ptrace_uprobes.ssol.slot import SlotCode
from ptrace_uprobes.ssol.state import Registers

__all__ = ["Assembler", "Recipe"]

Assembler = Callable[[Instruction, VirtAddr], SlotCode]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which mechanisms are faithful for a class of instructions, and its slot's code."""

    mechanism: Mechanism
    """What `auto` chooses."""
    assemble: Assembler | None = None
    extra_size: int = 0
    """The slot's size at most, beyond the size of the instruction itself."""
    why_not_boost: str | None = None
    """None: boosting is faithful."""
    why_not_step: str | None = None
    """None: single-stepping the slot's first instruction is faithful."""
    refusal: Refusal | None = None
    serves: Callable[[Instruction, Registers], bool] | None = None
    """Of what is emulated: whether the slot has the same effect from these registers. None: it has
    if boosting is faithful, and else it is for provoking a fault."""
    fix_fip: bool = False
    """The instruction leaves its own address in the x87 state."""
    far: Recipe | None = None
    """What to do when the operand is out of reach of the slot; None: it cannot be, or
    there is nothing to do."""
