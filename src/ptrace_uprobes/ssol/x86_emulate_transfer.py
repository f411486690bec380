"""Near branches, calls and returns, computed by the tracer; see x86_emulate.py."""

from __future__ import annotations

from collections.abc import Callable

from ptrace_uprobes.arch.x86_encoding import Encoding, Prefix
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.ssol.state import Registers, TraceeMemory
from ptrace_uprobes.ssol.x86_emulate_stack import Emulator, load, push
from ptrace_uprobes.ssol.x86_operand import REGISTER_NAMES, effective_address, rm_register

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
    mask = instruction.encoding.address_mask
    holds = _CONDITIONS[instruction.encoding.opcode >> 1 & 7]
    negated = instruction.encoding.opcode & 1 != 0

    def conditional(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & mask
        if holds(registers.eflags) != negated:
            _go(registers, following + distance & mask)
        else:
            registers.rip = following

    return conditional


def emulate_loop(instruction: Instruction) -> Emulator | None:
    """LOOPNE, LOOPE, LOOP, JrCXZ; not with F2 and F3, which processors differ on."""
    encoding = instruction.encoding
    if encoding.prefixes & (Prefix.REP | Prefix.REPNE):
        return None
    size, distance = encoding.size, instruction.immediate
    opcode, wrap = encoding.opcode, encoding.address_mask
    mask = wrap
    if encoding.prefixes & Prefix.ADDRESS_SIZE:
        mask = 0xFFFF_FFFF if encoding.bits == 64 else 0xFFFF
    # A 16-bit result leaves the rest of the register alone; a 32-bit one clears it.
    kept = ~mask if mask == 0xFFFF else 0

    def loop(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & wrap
        count = registers.rcx & mask
        if opcode == 0xE3:
            taken = count == 0
        else:
            count = count - 1 & mask
            zero = registers.eflags & _ZF != 0
            taken = count != 0 and (opcode == 0xE2 or zero == (opcode == 0xE1))
        _go(registers, following + distance & wrap if taken else following)
        if opcode != 0xE3:
            registers.rcx = registers.rcx & kept | count

    return loop


def emulate_jump_relative(instruction: Instruction) -> Emulator:
    distance = instruction.encoding.size + instruction.immediate
    mask = instruction.encoding.address_mask

    def jump_relative(address: int, registers: Registers, memory: TraceeMemory) -> None:
        _go(registers, address + distance & mask)

    return jump_relative


def emulate_call_relative(instruction: Instruction) -> Emulator:
    encoding, distance = instruction.encoding, instruction.immediate
    size, mask = encoding.size, encoding.address_mask

    def call_relative(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & mask
        _call(registers, memory, following + distance & mask, following, encoding)

    return call_relative


def _call(
    registers: Registers, memory: TraceeMemory, target: int, following: int, encoding: Encoding
) -> None:
    rip = registers.rip
    _go(registers, target)
    try:
        push(registers, memory, following, encoding.word_size, encoding.address_mask)
    except MemoryFault:
        registers.rip = rip
        raise


def emulate_call_indirect(instruction: Instruction) -> Emulator:
    encoding = instruction.encoding
    size, mask = encoding.size, encoding.address_mask
    target_of = _branch_operand(instruction)

    def call_indirect(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & mask
        _call(registers, memory, target_of(registers, memory, following), following, encoding)

    return call_indirect


def emulate_jump_indirect(instruction: Instruction) -> Emulator:
    size, mask = instruction.encoding.size, instruction.encoding.address_mask
    target_of = _branch_operand(instruction)

    def jump_indirect(address: int, registers: Registers, memory: TraceeMemory) -> None:
        _go(registers, target_of(registers, memory, address + size & mask))

    return jump_indirect


def _branch_operand(instruction: Instruction) -> Callable[[Registers, TraceeMemory, int], int]:
    word, mask = instruction.encoding.word_size, instruction.encoding.address_mask
    if instruction.encoding.mode == 3:
        name = REGISTER_NAMES[rm_register(instruction)]

        def from_register(registers: Registers, memory: TraceeMemory, following: int) -> int:
            value: int = getattr(registers, name)
            return value & mask

        return from_register
    address_of = effective_address(instruction)

    def from_memory(registers: Registers, memory: TraceeMemory, following: int) -> int:
        return load(registers, memory, address_of(registers, following), word)

    return from_memory


def emulate_return(instruction: Instruction) -> Emulator:
    """The immediate of `ret imm16` is unsigned."""
    word, mask = instruction.encoding.word_size, instruction.encoding.address_mask
    released = word + (instruction.immediate & 0xFFFF)

    def near_return(address: int, registers: Registers, memory: TraceeMemory) -> None:
        stack = registers.rsp & mask
        _go(registers, load(registers, memory, stack, word))
        registers.rsp = stack + released & mask

    return near_return
