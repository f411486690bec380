"""Reading a slot's code as the processor would: for checks of what was assembled."""

from __future__ import annotations

from dataclasses import dataclass

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.decoder import Instruction, decode
from ptrace_uprobes.ssol.plan import SlotCode

__all__ = ["Step", "read_slot"]

_FAR_JUMP = b"\xff\x25\x00\x00\x00\x00"  # jmp *0(%rip), and the target behind it


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
        if instruction.code == _FAR_JUMP:
            jump = int.from_bytes(code[offset + 6 : offset + 14], "little")
            size += 8
        elif instruction.code[:1] == b"\xe9":
            jump = instruction.branch_target
        steps.append(Step(offset, instruction, jump))
        offset += size
    assert offset == len(code)
    return steps
