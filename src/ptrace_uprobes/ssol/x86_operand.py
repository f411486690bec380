"""Operands of 64-bit-mode instructions by name: registers, and addresses as functions."""

from __future__ import annotations

from collections.abc import Callable

from ptrace_uprobes.arch.x86_encoding import Prefix
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.ssol.state import Registers

__all__ = ["REGISTER_NAMES", "AddressOf", "effective_address", "rm_register", "uses_only_rsp"]

REGISTER_NAMES = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
"""In the order of their numbers in machine code."""

_MASK = (1 << 64) - 1
_RSP = 4

AddressOf = Callable[[Registers, int], int]
"""Registers, and the address of the next instruction, to an operand's linear address."""


def rm_register(instruction: Instruction) -> int:
    """The number of the register in ModRM.rm."""
    encoding = instruction.encoding
    return encoding.rm | (encoding.rex & 1) << 3


def _parts(instruction: Instruction) -> tuple[int | None, int | None, int]:
    """Base register, index register, scale's shift; not for RIP-relative operands."""
    encoding = instruction.encoding
    rex = encoding.rex
    if encoding.rm != _RSP:
        return rm_register(instruction), None, 0
    sib = instruction.code[encoding.opcode_offset + 2]
    index: int | None = (sib >> 3 & 7) | (rex & 2) << 2
    base: int | None = (sib & 7) | (rex & 1) << 3
    if index == _RSP:
        index = None
    if sib & 7 == 5 and encoding.mode == 0:
        base = None
    return base, index, sib >> 6


def uses_only_rsp(instruction: Instruction) -> bool:
    """The memory operand is RSP plus a constant, in the stack's own segment."""
    encoding = instruction.encoding
    unusual = Prefix.FS | Prefix.GS | Prefix.ADDRESS_SIZE
    if encoding.is_rip_relative or encoding.prefixes & unusual:
        return False
    base, index, _ = _parts(instruction)
    return base == _RSP and index is None


def effective_address(instruction: Instruction, *, linear: bool = True) -> AddressOf:
    """How to compute the address of a legacy instruction's memory operand.

    `linear`: with the base of an FS or GS override, which LEA leaves out.
    """
    encoding = instruction.encoding
    displacement = instruction.displacement
    mask = 0xFFFF_FFFF if encoding.prefixes & Prefix.ADDRESS_SIZE else _MASK
    base_name = index_name = None
    shift = 0
    if not encoding.is_rip_relative:
        base, index, shift = _parts(instruction)
        base_name = None if base is None else REGISTER_NAMES[base]
        index_name = None if index is None else REGISTER_NAMES[index]
    segment = None
    if linear and encoding.prefixes & (Prefix.FS | Prefix.GS):
        segment = _last_segment(instruction)

    def address_of(registers: Registers, following: int) -> int:
        if encoding.is_rip_relative:
            address = following + displacement
        else:
            address = displacement
            if base_name is not None:
                address += getattr(registers, base_name)
            if index_name is not None:
                address += getattr(registers, index_name) << shift
        address &= mask
        if segment is not None:
            base_value: int = getattr(registers, segment)
            address = address + base_value & _MASK
        return address

    return address_of


def _last_segment(instruction: Instruction) -> str:
    """Of FS and GS overrides the last one counts."""
    prefixes = instruction.code[: instruction.encoding.opcode_offset]
    return "fs_base" if prefixes.rfind(b"\x64") > prefixes.rfind(b"\x65") else "gs_base"
