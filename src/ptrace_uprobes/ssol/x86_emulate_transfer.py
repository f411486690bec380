"""Near branches, calls and returns, computed by the tracer; see x86_emulate.py."""

from __future__ import annotations

from collections.abc import Callable

from ptrace_uprobes.arch.x86_encoding import Prefix
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.ssol.state import Registers, TraceeMemory
from ptrace_uprobes.ssol.x86_emulate_stack import Emulator, load, push
from ptrace_uprobes.ssol.x86_operand import REGISTER_NAMES, effective_address, rm_register
from ptrace_uprobes.ssol.x86_write import MASK

__all__ = [
    "emulate_call_indirect",
    "emulate_call_relative",
    "emulate_conditional",
    "emulate_jump_indirect",
    "emulate_jump_relative",
    "emulate_loop",
    "emulate_return",
]

_CF, _PF, _ZF, _SF, _OF = 0x001, 0x004, 0x040, 0x080, 0x800

_CONDITIONS: tuple[Callable[[int], bool], ...] = (
    lambda flags: flags & _OF != 0,
    lambda flags: flags & _CF != 0,
    lambda flags: flags & _ZF != 0,
    lambda flags: flags & (_CF | _ZF) != 0,
    lambda flags: flags & _SF != 0,
    lambda flags: flags & _PF != 0,
    lambda flags: (flags & _SF != 0) != (flags & _OF != 0),
    lambda flags: flags & _ZF != 0 or (flags & _SF != 0) != (flags & _OF != 0),
)
"""Jo, jb, je, jbe, js, jp, jl, jle; the odd condition codes are their negations."""


def _go(registers: Registers, target: int) -> None:
    # A non-canonical target faults in the branch itself: let it do so natively.
    if (target >> 47) + 1 & 0x1FFFF > 1:
        raise MemoryFault(target, 1)
    registers.rip = target


def emulate_conditional(instruction: Instruction) -> Emulator:
    size, distance = instruction.encoding.size, instruction.immediate
    holds = _CONDITIONS[instruction.encoding.opcode >> 1 & 7]
    negated = instruction.encoding.opcode & 1 != 0

    def conditional(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & MASK
        if holds(registers.eflags) != negated:
            _go(registers, following + distance & MASK)
        else:
            registers.rip = following

    return conditional


def emulate_loop(instruction: Instruction) -> Emulator | None:
    """LOOPNE, LOOPE, LOOP, JrCXZ; not with F2 and F3, which processors differ on."""
    encoding = instruction.encoding
    if encoding.prefixes & (Prefix.REP | Prefix.REPNE):
        return None
    size, distance = encoding.size, instruction.immediate
    opcode = encoding.opcode
    mask = 0xFFFF_FFFF if encoding.prefixes & Prefix.ADDRESS_SIZE else MASK

    def loop(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & MASK
        count = registers.rcx & mask
        if opcode == 0xE3:
            taken = count == 0
        else:
            count = count - 1 & mask
            zero = registers.eflags & _ZF != 0
            taken = count != 0 and (opcode == 0xE2 or zero == (opcode == 0xE1))
        _go(registers, following + distance & MASK if taken else following)
        if opcode != 0xE3:
            registers.rcx = count

    return loop


def emulate_jump_relative(instruction: Instruction) -> Emulator:
    distance = instruction.encoding.size + instruction.immediate

    def jump_relative(address: int, registers: Registers, memory: TraceeMemory) -> None:
        _go(registers, address + distance & MASK)

    return jump_relative


def emulate_call_relative(instruction: Instruction) -> Emulator:
    size, distance = instruction.encoding.size, instruction.immediate

    def call_relative(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & MASK
        _call(registers, memory, following + distance & MASK, following)

    return call_relative


def _call(registers: Registers, memory: TraceeMemory, target: int, following: int) -> None:
    rip = registers.rip
    _go(registers, target)
    try:
        push(registers, memory, following)
    except MemoryFault:
        registers.rip = rip
        raise


def emulate_call_indirect(instruction: Instruction) -> Emulator:
    size = instruction.encoding.size
    target_of = _branch_operand(instruction)

    def call_indirect(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & MASK
        _call(registers, memory, target_of(registers, memory, following), following)

    return call_indirect


def emulate_jump_indirect(instruction: Instruction) -> Emulator:
    size = instruction.encoding.size
    target_of = _branch_operand(instruction)

    def jump_indirect(address: int, registers: Registers, memory: TraceeMemory) -> None:
        _go(registers, target_of(registers, memory, address + size & MASK))

    return jump_indirect


def _branch_operand(instruction: Instruction) -> Callable[[Registers, TraceeMemory, int], int]:
    if instruction.encoding.mode == 3:
        name = REGISTER_NAMES[rm_register(instruction)]

        def from_register(registers: Registers, memory: TraceeMemory, following: int) -> int:
            value: int = getattr(registers, name)
            return value

        return from_register
    address_of = effective_address(instruction)

    def from_memory(registers: Registers, memory: TraceeMemory, following: int) -> int:
        return load(memory, address_of(registers, following))

    return from_memory


def emulate_return(instruction: Instruction) -> Emulator:
    """The immediate of `ret imm16` is unsigned."""
    released = 8 + (instruction.immediate & 0xFFFF)

    def near_return(address: int, registers: Registers, memory: TraceeMemory) -> None:
        stack = registers.rsp
        _go(registers, load(memory, stack))
        registers.rsp = stack + released & MASK

    return near_return
