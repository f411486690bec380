"""How a displaced instruction can be executed, and why some cannot."""

from __future__ import annotations

import enum

__all__ = ["Mechanism", "Refusal"]


class Mechanism(enum.Enum):
    """How a displaced instruction is executed."""

    EMULATE = "emulate"
    """The tracer computes its effect."""
    BOOST = "boost"
    """A copy runs in a slot and jumps back: one stop a hit."""
    STEP = "step"
    """A copy is single-stepped in a slot: two stops a hit."""
    REFUSE = "refuse"
    """It cannot be executed elsewhere faithfully."""


class Refusal(enum.Enum):
    """Why an instruction is refused; the value is the sentence for the user."""

    ARCHITECTURE = "instructions of this architecture are not planned yet"
    UNDECODABLE = "these bytes are no instruction that the decoder knows"
    LENGTH_DISPUTED = "two decoders disagree on the length of this instruction"
    BREAKPOINT = "a breakpoint stands there: the program's own, another tool's or a kernel uprobe"
    FAR_TRANSFER = "a far transfer or interrupt return is not executed out of line"
    SHORT_BRANCH = "a near branch with an operand-size prefix cuts its target to 16 bits"
    SYSENTER = "sysenter returns to an address that the kernel chooses, not to its successor"
    OPERAND_SIZE_BRANCH = (
        "Intel and AMD processors disagree on a near branch with an operand-size prefix"
    )
    LOCKED = "a lock prefix makes this instruction invalid"
    ENCLAVE = "entering an enclave shows it the address of the instruction"
    PROFILING = "the processor records the address of this instruction"
    OUT_OF_REACH = "its operand is too far from every place where a slot could be"
    NO_SLOT = "no slot can be had near it, and the tracer cannot compute its effect"
