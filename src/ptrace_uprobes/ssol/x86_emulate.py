"""The effect of simple instructions, computed by the tracer.

An emulator is made once for given bytes and then called at every hit, with the site's
address. It changes nothing before its last memory access has succeeded, so that after a
`MemoryFault` the thread can meet the fault by executing the instruction natively.

Only stacks, and the operands of calls and jumps, are accessed: the tracer's accesses ignore
page protections (FOLL_FORCE in mm/gup.c), so that a load which the program expects to fault
would not, and a store to a read-only page would succeed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86_encoding import Encoding, Family, Prefix
from ptrace_uprobes.decoder import Instruction, decode
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.ssol.state import Registers, TraceeMemory
from ptrace_uprobes.ssol.x86_operand import (
    REGISTER_NAMES,
    effective_address,
    rm_register,
)

__all__ = ["Emulator", "emulator_for"]

Emulator = Callable[[int, Registers, TraceeMemory], None]
"""Called with the site's address."""

_MASK = (1 << 64) - 1
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


def emulator_for(instruction: Instruction) -> Emulator | None:
    """Shared by all sites with the same bytes; None if the tracer cannot do it."""
    return _emulator_for_bytes(instruction.code)


@lru_cache(maxsize=1024)
def _emulator_for_bytes(code: bytes) -> Emulator | None:
    instruction = decode(code, VirtAddr(0))
    if instruction is None or instruction.disputed:
        return None
    encoding = instruction.encoding
    if encoding.family is not Family.LEGACY or encoding.prefixes & Prefix.LOCK:
        return None
    if encoding.prefixes & Prefix.OPERAND_SIZE and not encoding.wide:
        return _no_operation(encoding) if _is_nop(encoding) else None
    if _is_nop(encoding):
        return _no_operation(encoding)
    if encoding.opcode_map == 1 and 0x80 <= encoding.opcode <= 0x8F:
        return _conditional(instruction)
    if encoding.opcode_map != 0:
        return None
    return _one_byte(instruction, encoding)


def _is_nop(encoding: Encoding) -> bool:
    """nop, pause, endbr64 and the multi-byte nop.

    Not the other hints among 0F 18-1F: with CET or MPX some do things.
    """
    if encoding.opcode_map == 0:
        return encoding.opcode == 0x90 and not encoding.rex & 1
    if encoding.opcode_map != 1:
        return False
    if encoding.opcode == 0x1F:
        return encoding.reg == 0
    return (
        encoding.opcode == 0x1E
        and encoding.modrm in (0xFA, 0xFB)
        and encoding.prefixes & Prefix.REP != 0
    )


def _one_byte(instruction: Instruction, encoding: Encoding) -> Emulator | None:
    opcode = encoding.opcode
    register = opcode & 7 | (encoding.rex & 1) << 3
    if 0x50 <= opcode <= 0x57:
        return _push_register(instruction, register)
    if 0x58 <= opcode <= 0x5F:
        return _pop_register(instruction, register)
    if opcode in (0x68, 0x6A):
        return _push_immediate(instruction)
    if 0x70 <= opcode <= 0x7F:
        return _conditional(instruction)
    if opcode in (0x89, 0x8B) and encoding.mode == 3:
        return _move_register(instruction)
    if opcode in (0x31, 0x33) and encoding.mode == 3:
        return _exclusive_or(instruction)
    if opcode == 0x8D and encoding.mode != 3:
        return _load_address(instruction)
    if 0xB8 <= opcode <= 0xBF:
        return _move_immediate(instruction, register, instruction.immediate)
    if opcode == 0xC7 and encoding.mode == 3 and encoding.reg == 0:
        return _move_immediate(instruction, rm_register(instruction), instruction.immediate)
    if opcode in (0xC2, 0xC3):
        return _return(instruction)
    if opcode == 0xC9:
        return _leave(encoding)
    if 0xE0 <= opcode <= 0xE3:
        return _loop(instruction)
    if opcode == 0xE8:
        return _call_relative(instruction)
    if opcode in (0xE9, 0xEB):
        return _jump_relative(instruction)
    if opcode == 0xFF and encoding.reg == 2:
        return _call_indirect(instruction)
    if opcode == 0xFF and encoding.reg == 4:
        return _jump_indirect(instruction)
    return None


# Below, `size` is the instruction's, and every emulator ends by setting RIP.


def _no_operation(encoding: Encoding) -> Emulator:
    size = encoding.size

    def no_operation(address: int, registers: Registers, memory: TraceeMemory) -> None:
        registers.rip = address + size & _MASK

    return no_operation


def _push_register(instruction: Instruction, number: int) -> Emulator:
    size = instruction.encoding.size
    name = REGISTER_NAMES[number]

    def push_register(address: int, registers: Registers, memory: TraceeMemory) -> None:
        value: int = getattr(registers, name)  # RSP: its value before the push
        _push(registers, memory, value)
        registers.rip = address + size & _MASK

    return push_register


def _push_immediate(instruction: Instruction) -> Emulator:
    size = instruction.encoding.size
    value = instruction.immediate & _MASK

    def push_immediate(address: int, registers: Registers, memory: TraceeMemory) -> None:
        _push(registers, memory, value)
        registers.rip = address + size & _MASK

    return push_immediate


def _push(registers: Registers, memory: TraceeMemory, value: int) -> None:
    stack = registers.rsp - 8 & _MASK
    memory.write(stack, value.to_bytes(8, "little"))
    registers.rsp = stack


def _pop_register(instruction: Instruction, number: int) -> Emulator:
    size = instruction.encoding.size
    name = REGISTER_NAMES[number]

    def pop_register(address: int, registers: Registers, memory: TraceeMemory) -> None:
        value = _load(memory, registers.rsp)
        registers.rsp = registers.rsp + 8 & _MASK
        setattr(registers, name, value)  # RSP: the value popped, after the increment
        registers.rip = address + size & _MASK

    return pop_register


def _load(memory: TraceeMemory, address: int) -> int:
    return int.from_bytes(memory.read(address, 8), "little")


def _leave(encoding: Encoding) -> Emulator:
    size = encoding.size

    def leave(address: int, registers: Registers, memory: TraceeMemory) -> None:
        frame = registers.rbp
        registers.rbp = _load(memory, frame)
        registers.rsp = frame + 8 & _MASK
        registers.rip = address + size & _MASK

    return leave


def _move_register(instruction: Instruction) -> Emulator:
    encoding = instruction.encoding
    size, mask = encoding.size, _width_mask(encoding)
    names = (REGISTER_NAMES[rm_register(instruction)], REGISTER_NAMES[_reg(encoding)])
    target, source = names if encoding.opcode == 0x89 else names[::-1]

    def move_register(address: int, registers: Registers, memory: TraceeMemory) -> None:
        setattr(registers, target, getattr(registers, source) & mask)
        registers.rip = address + size & _MASK

    return move_register


def _reg(encoding: Encoding) -> int:
    return encoding.reg | (encoding.rex & 4) << 1


def _width_mask(encoding: Encoding) -> int:
    """A 32-bit result clears the upper half."""
    return _MASK if encoding.wide else 0xFFFF_FFFF


def _move_immediate(instruction: Instruction, number: int, immediate: int) -> Emulator:
    size = instruction.encoding.size
    name = REGISTER_NAMES[number]
    value = immediate & _width_mask(instruction.encoding)

    def move_immediate(address: int, registers: Registers, memory: TraceeMemory) -> None:
        setattr(registers, name, value)
        registers.rip = address + size & _MASK

    return move_immediate


def _exclusive_or(instruction: Instruction) -> Emulator | None:
    """Only of a register with itself; AF, which is undefined, is left as it was."""
    encoding = instruction.encoding
    if _reg(encoding) != rm_register(instruction):
        return None
    size = encoding.size
    name = REGISTER_NAMES[_reg(encoding)]

    def zero(address: int, registers: Registers, memory: TraceeMemory) -> None:
        setattr(registers, name, 0)
        registers.eflags = registers.eflags & ~(_CF | _SF | _OF) | _ZF | _PF
        registers.rip = address + size & _MASK

    return zero


def _load_address(instruction: Instruction) -> Emulator:
    encoding = instruction.encoding
    size, mask = encoding.size, _width_mask(encoding)
    name = REGISTER_NAMES[_reg(encoding)]
    address_of = effective_address(instruction, linear=False)

    def load_address(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & _MASK
        setattr(registers, name, address_of(registers, following) & mask)
        registers.rip = following

    return load_address


def _go(registers: Registers, target: int) -> None:
    # A non-canonical target faults in the branch itself: let it do so natively.
    if (target >> 47) + 1 & 0x1FFFF > 1:
        raise MemoryFault(target, 1)
    registers.rip = target


def _conditional(instruction: Instruction) -> Emulator:
    size, distance = instruction.encoding.size, instruction.immediate
    holds = _CONDITIONS[instruction.encoding.opcode >> 1 & 7]
    negated = instruction.encoding.opcode & 1 != 0

    def conditional(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & _MASK
        if holds(registers.eflags) != negated:
            _go(registers, following + distance & _MASK)
        else:
            registers.rip = following

    return conditional


def _loop(instruction: Instruction) -> Emulator:
    """LOOPNE, LOOPE, LOOP, JrCXZ."""
    encoding = instruction.encoding
    size, distance = encoding.size, instruction.immediate
    opcode = encoding.opcode
    mask = 0xFFFF_FFFF if encoding.prefixes & Prefix.ADDRESS_SIZE else _MASK

    def loop(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & _MASK
        count = registers.rcx & mask
        if opcode == 0xE3:
            taken = count == 0
        else:
            count = count - 1 & mask
            zero = registers.eflags & _ZF != 0
            taken = count != 0 and (opcode == 0xE2 or zero == (opcode == 0xE1))
        _go(registers, following + distance & _MASK if taken else following)
        if opcode != 0xE3:
            registers.rcx = count

    return loop


def _jump_relative(instruction: Instruction) -> Emulator:
    distance = instruction.encoding.size + instruction.immediate

    def jump_relative(address: int, registers: Registers, memory: TraceeMemory) -> None:
        _go(registers, address + distance & _MASK)

    return jump_relative


def _call_relative(instruction: Instruction) -> Emulator:
    size, distance = instruction.encoding.size, instruction.immediate

    def call_relative(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & _MASK
        _call(registers, memory, following + distance & _MASK, following)

    return call_relative


def _call(registers: Registers, memory: TraceeMemory, target: int, following: int) -> None:
    rip = registers.rip
    _go(registers, target)
    try:
        _push(registers, memory, following)
    except MemoryFault:
        registers.rip = rip
        raise


def _call_indirect(instruction: Instruction) -> Emulator:
    size = instruction.encoding.size
    target_of = _branch_operand(instruction)

    def call_indirect(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & _MASK
        _call(registers, memory, target_of(registers, memory, following), following)

    return call_indirect


def _jump_indirect(instruction: Instruction) -> Emulator:
    size = instruction.encoding.size
    target_of = _branch_operand(instruction)

    def jump_indirect(address: int, registers: Registers, memory: TraceeMemory) -> None:
        _go(registers, target_of(registers, memory, address + size & _MASK))

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
        return _load(memory, address_of(registers, following))

    return from_memory


def _return(instruction: Instruction) -> Emulator:
    """The immediate of `ret imm16` is unsigned."""
    released = 8 + (instruction.immediate & 0xFFFF)

    def near_return(address: int, registers: Registers, memory: TraceeMemory) -> None:
        stack = registers.rsp
        _go(registers, _load(memory, stack))
        registers.rsp = stack + released & _MASK

    return near_return
