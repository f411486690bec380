"""Pushes and pops, computed by the tracer; see x86_emulate.py for what an emulator is."""

from __future__ import annotations

from collections.abc import Callable

from ptrace_uprobes.arch.x86_encoding import Encoding
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.ssol.state import Registers, TraceeMemory
from ptrace_uprobes.ssol.x86_operand import REGISTER_NAMES

__all__ = [
    "Emulator",
    "emulate_leave",
    "emulate_pop_register",
    "emulate_push_immediate",
    "emulate_push_register",
    "load",
    "push",
]

_AC = 0x4_0000

Emulator = Callable[[int, Registers, TraceeMemory], None]
"""Called with the site's address."""


def emulate_push_register(instruction: Instruction, number: int) -> Emulator:
    encoding = instruction.encoding
    size, word, mask = encoding.size, encoding.word_size, encoding.address_mask
    name = REGISTER_NAMES[number]

    def push_register(address: int, registers: Registers, memory: TraceeMemory) -> None:
        value: int = getattr(registers, name)  # RSP: its value before the push
        push(registers, memory, value & mask, word, mask)
        registers.rip = address + size & mask

    return push_register


def emulate_push_immediate(instruction: Instruction) -> Emulator:
    encoding = instruction.encoding
    size, word, mask = encoding.size, encoding.word_size, encoding.address_mask
    value = instruction.immediate & mask

    def push_immediate(address: int, registers: Registers, memory: TraceeMemory) -> None:
        push(registers, memory, value, word, mask)
        registers.rip = address + size & mask

    return push_immediate


def push(registers: Registers, memory: TraceeMemory, value: int, word: int, mask: int) -> None:
    """Push `word` bytes; addresses wrap at `mask`."""
    stack = registers.rsp - word & mask
    check_alignment(registers, stack, word)
    memory.write(stack, value.to_bytes(word, "little"))
    registers.rsp = stack


def emulate_pop_register(instruction: Instruction, number: int) -> Emulator:
    encoding = instruction.encoding
    size, word, mask = encoding.size, encoding.word_size, encoding.address_mask
    name = REGISTER_NAMES[number]

    def pop_register(address: int, registers: Registers, memory: TraceeMemory) -> None:
        value = load(registers, memory, registers.rsp & mask, word)
        registers.rsp = registers.rsp + word & mask
        setattr(registers, name, value)  # RSP: the value popped, after the increment
        registers.rip = address + size & mask

    return pop_register


def check_alignment(registers: Registers, address: int, word: int) -> None:
    """A program that has set AC gets its fault (SDM volume 3, 6.15, #AC), natively."""
    if address & (word - 1) and registers.eflags & _AC:
        raise MemoryFault(address, word)


def load(registers: Registers, memory: TraceeMemory, address: int, word: int) -> int:
    check_alignment(registers, address, word)
    return int.from_bytes(memory.read(address, word), "little")


def emulate_leave(encoding: Encoding) -> Emulator:
    size, word, mask = encoding.size, encoding.word_size, encoding.address_mask

    def leave(address: int, registers: Registers, memory: TraceeMemory) -> None:
        frame = registers.rbp & mask
        registers.rbp = load(registers, memory, frame, word)
        registers.rsp = frame + word & mask
        registers.rip = address + size & mask

    return leave
