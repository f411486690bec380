"""The effect of simple instructions, computed by the tracer.

An emulator is made once for given bytes and then called at every hit, with the site's
address. It changes nothing before its last memory access has succeeded, so that after a
`MemoryFault` the thread can meet the fault by executing the instruction natively.

Only stacks, and the operands of calls and jumps, are accessed: the tracer's accesses ignore
page protections (FOLL_FORCE in mm/gup.c), so that a load which the program expects to fault
would not, and a store to a read-only page would succeed.
"""

from __future__ import annotations

from functools import lru_cache

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86_encoding import Encoding, Family, Prefix
from ptrace_uprobes.decoder import Instruction, decode_bits
from ptrace_uprobes.ssol.state import Registers, TraceeMemory
from ptrace_uprobes.ssol.x86_emulate_stack import (
    Emulator,
    emulate_leave,
    emulate_pop_register,
    emulate_push_immediate,
    emulate_push_register,
)
from ptrace_uprobes.ssol.x86_emulate_transfer import (
    emulate_call_indirect,
    emulate_call_relative,
    emulate_conditional,
    emulate_jump_indirect,
    emulate_jump_relative,
    emulate_loop,
    emulate_return,
)
from ptrace_uprobes.ssol.x86_operand import (
    REGISTER_NAMES,
    effective_address,
    rm_register,
)
from ptrace_uprobes.ssol.x86_write import MASK

__all__ = ["Emulator", "emulator_for"]

_CF, _PF, _AF, _ZF, _SF, _OF = 0x001, 0x004, 0x010, 0x040, 0x080, 0x800


def emulator_for(instruction: Instruction) -> Emulator | None:
    """Shared by all sites with the same bytes; None if the tracer cannot do it."""
    return _emulator_for_bytes(instruction.code, instruction.encoding.bits)


@lru_cache(maxsize=1024)
def _emulator_for_bytes(code: bytes, bits: int) -> Emulator | None:
    instruction = decode_bits(code, VirtAddr(0), bits)
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
        return emulate_conditional(instruction)
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
        return emulate_push_register(instruction, register)
    if 0x58 <= opcode <= 0x5F:
        return emulate_pop_register(instruction, register)
    if opcode in (0x68, 0x6A):
        return emulate_push_immediate(instruction)
    if 0x70 <= opcode <= 0x7F:
        return emulate_conditional(instruction)
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
        return emulate_return(instruction)
    if opcode == 0xC9:
        return emulate_leave(encoding)
    if 0xE0 <= opcode <= 0xE3:
        return emulate_loop(instruction)
    if opcode == 0xE8:
        return emulate_call_relative(instruction)
    if opcode in (0xE9, 0xEB):
        return emulate_jump_relative(instruction)
    if opcode == 0xFF and encoding.reg == 2:
        return emulate_call_indirect(instruction)
    if opcode == 0xFF and encoding.reg == 4:
        return emulate_jump_indirect(instruction)
    return None


# Below, `size` is the instruction's, and every emulator ends by setting RIP.


def _no_operation(encoding: Encoding) -> Emulator:
    size, wrap = encoding.size, encoding.address_mask

    def no_operation(address: int, registers: Registers, memory: TraceeMemory) -> None:
        registers.rip = address + size & wrap

    return no_operation


def _move_register(instruction: Instruction) -> Emulator:
    encoding = instruction.encoding
    size, mask, wrap = encoding.size, _width_mask(encoding), encoding.address_mask
    names = (REGISTER_NAMES[rm_register(instruction)], REGISTER_NAMES[_reg(encoding)])
    target, source = names if encoding.opcode == 0x89 else names[::-1]

    def move_register(address: int, registers: Registers, memory: TraceeMemory) -> None:
        setattr(registers, target, getattr(registers, source) & mask)
        registers.rip = address + size & wrap

    return move_register


def _reg(encoding: Encoding) -> int:
    return encoding.reg | (encoding.rex & 4) << 1


def _width_mask(encoding: Encoding) -> int:
    """A 32-bit result clears the upper half."""
    return MASK if encoding.wide else 0xFFFF_FFFF


def _move_immediate(instruction: Instruction, number: int, immediate: int) -> Emulator:
    size, wrap = instruction.encoding.size, instruction.encoding.address_mask
    name = REGISTER_NAMES[number]
    value = immediate & _width_mask(instruction.encoding)

    def move_immediate(address: int, registers: Registers, memory: TraceeMemory) -> None:
        setattr(registers, name, value)
        registers.rip = address + size & wrap

    return move_immediate


def _exclusive_or(instruction: Instruction) -> Emulator | None:
    """Only of a register with itself. AF is undefined on paper; processors clear it."""
    encoding = instruction.encoding
    if _reg(encoding) != rm_register(instruction):
        return None
    size, wrap = encoding.size, encoding.address_mask
    name = REGISTER_NAMES[_reg(encoding)]

    def zero(address: int, registers: Registers, memory: TraceeMemory) -> None:
        setattr(registers, name, 0)
        registers.eflags = registers.eflags & ~(_CF | _AF | _SF | _OF) | _ZF | _PF
        registers.rip = address + size & wrap

    return zero


def _load_address(instruction: Instruction) -> Emulator:
    encoding = instruction.encoding
    size, mask, wrap = encoding.size, _width_mask(encoding), encoding.address_mask
    name = REGISTER_NAMES[_reg(encoding)]
    address_of = effective_address(instruction, linear=False)

    def load_address(address: int, registers: Registers, memory: TraceeMemory) -> None:
        following = address + size & wrap
        setattr(registers, name, address_of(registers, following) & mask)
        registers.rip = following

    return load_address
