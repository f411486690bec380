"""Reading a slot's code as the processor would: for checks of what was assembled."""

from __future__ import annotations

from dataclasses import dataclass

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.decoder import Instruction, decode
from ptrace_uprobes.ssol.plan import SlotCode

__all__ = ["Step", "read_slot"]

_FAR_JUMP = b"\xff\x25"  # jmp *n(%rip), and the target behind it, aligned


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a slot; `jump` is where it always goes, if it is such a one."""

    offset: int
    instruction: Instruction
    jump: int | None


def read_slot(assembled: SlotCode, slot: int) -> list[Step]:
    steps = []
    code = assembled.code
    offset = 0
    while offset < len(code):
        instruction = decode(code[offset:], VirtAddr(slot + offset))
        assert instruction is not None, code[offset:].hex(" ")
        size = len(instruction.code)
        jump: int | None = None
        if instruction.code[:2] == _FAR_JUMP and 0 <= instruction.displacement < 8:
            start = offset + size + instruction.displacement
            assert (slot + start) % 8 == 0
            jump = int.from_bytes(code[start : start + 8], "little")
            size = start + 8 - offset
        elif instruction.code[:1] == b"\xe9":
            jump = instruction.branch_target
        steps.append(Step(offset, instruction, jump))
        offset += size
    assert offset == len(code)
    return steps
