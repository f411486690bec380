"""Functions that take more than their return address from the stack when they return.

On i386 `ret $4` is ordinary: a function that returns a structure pops the hidden pointer to it
(System V ABI, Intel386 supplement, 2.3.3), and one with __attribute__((stdcall)) its arguments.
"""

from __future__ import annotations

from typing import Final

from ptrace_uprobes.arch.x86_encoding import Family
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.engine.flow import exits_of, extent_of, instructions_of
from ptrace_uprobes.engine.placed import SpaceRecord

__all__ = ["bytes_popped"]

_RET_IMM16: Final = 0xC2
_RET: Final = 0xC3
_MOST_INSTRUCTIONS: Final = 4096


def bytes_popped(record: SpaceRecord, function: int) -> int:
    """How many bytes behind its return address a function's return takes from the stack, as its
    own code says, or that of the functions that it ends with a jump to. 0 if none tells."""
    if record.space.architecture.word_size != 4:
        return 0  # no compiler's code does it
    waiting, seen = [function], set()
    left = _MOST_INSTRUCTIONS
    while waiting:
        extent = extent_of(record, waiting.pop())
        if extent is None or extent in seen:
            continue
        seen.add(extent)
        begin, end = extent
        code = record.traps.read_some(begin, end - begin)
        if bytes((_RET_IMM16,)) not in code and bytes((_RET,)) in code:
            return 0  # nearly always; a byte of either may be part of another instruction
        instructions = instructions_of(record, begin, end, left)
        if instructions is None:
            continue
        left -= len(instructions)
        for one in instructions:
            popped = _popped_by(one)
            if popped is not None:
                return popped
        waiting.extend(exits_of(record, instructions, begin, end).outside)
    return 0


def _popped_by(one: Instruction) -> int | None:
    encoding = one.encoding
    if encoding.family is not Family.LEGACY or encoding.opcode_map != 0:
        return None
    if encoding.opcode == _RET_IMM16:
        return one.immediate & 0xFFFF
    return 0 if encoding.opcode == _RET else None
