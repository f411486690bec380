"""Whether an address space is still what the engine knows of it.

An exec replaces the memory first and reports itself later (fs/exec.c, begin_new_exec; the
PTRACE_EVENT_EXEC comes from its caller's caller), and an exit drops it before it is reported.
Between the two every look at the process shows what is no more, or is not yet, the program.
"""

from __future__ import annotations

from ptrace_uprobes.engine.placed import SpaceRecord

__all__ = ["is_in_place"]


def is_in_place(record: SpaceRecord) -> bool:
    """False if the memory of the address space is gone, and that about to be reported."""
    memory = record.space.memory
    # Through a descriptor that was opened for the old memory, whoever the modules belong to.
    return any(memory.read_some(module.start, 1) for module in record.modules)
