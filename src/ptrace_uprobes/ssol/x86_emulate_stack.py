"""Pushes and pops, computed by the tracer; see x86_emulate.py for what an emulator is."""

from __future__ import annotations

from collections.abc import Callable

from ptrace_uprobes.arch.x86_encoding import Encoding
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.ssol.state import Registers, TraceeMemory
from ptrace_uprobes.ssol.x86_operand import REGISTER_NAMES
from ptrace_uprobes.ssol.x86_write import MASK

__all__ = [
    "Emulator",
    "emulate_leave",
    "emulate_pop_register",
    "emulate_push_immediate",
    "emulate_push_register",
    "load",
    "push",
]

Emulator = Callable[[int, Registers, TraceeMemory], None]
"""Called with the site's address."""


def emulate_push_register(instruction: Instruction, number: int) -> Emulator:
    size = instruction.encoding.size
    name = REGISTER_NAMES[number]

    def push_register(address: int, registers: Registers, memory: TraceeMemory) -> None:
        value: int = getattr(registers, name)  # RSP: its value before the push
        push(registers, memory, value)
        registers.rip = address + size & MASK

    return push_register


def emulate_push_immediate(instruction: Instruction) -> Emulator:
    size = instruction.encoding.size
    value = instruction.immediate & MASK

    def push_immediate(address: int, registers: Registers, memory: TraceeMemory) -> None:
        push(registers, memory, value)
        registers.rip = address + size & MASK

    return push_immediate


def push(registers: Registers, memory: TraceeMemory, value: int) -> None:
    stack = registers.rsp - 8 & MASK
    memory.write(stack, value.to_bytes(8, "little"))
    registers.rsp = stack


def emulate_pop_register(instruction: Instruction, number: int) -> Emulator:
    size = instruction.encoding.size
    name = REGISTER_NAMES[number]

    def pop_register(address: int, registers: Registers, memory: TraceeMemory) -> None:
        value = load(memory, registers.rsp)
        registers.rsp = registers.rsp + 8 & MASK
        setattr(registers, name, value)  # RSP: the value popped, after the increment
        registers.rip = address + size & MASK

    return pop_register


def load(memory: TraceeMemory, address: int) -> int:
    return int.from_bytes(memory.read(address, 8), "little")


def emulate_leave(encoding: Encoding) -> Emulator:
    size = encoding.size

    def leave(address: int, registers: Registers, memory: TraceeMemory) -> None:
        frame = registers.rbp
        registers.rbp = load(memory, frame)
        registers.rsp = frame + 8 & MASK
        registers.rip = address + size & MASK

    return leave
