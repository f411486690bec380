"""Operands of instructions by name: registers, and addresses as functions."""

from __future__ import annotations

from collections.abc import Callable

from ptrace_uprobes.arch.x86_encoding import Encoding, Prefix
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.ssol.state import Registers

__all__ = [
    "REGISTER_NAMES",
    "AddressOf",
    "effective_address",
    "is_absolute",
    "is_clear_of_push",
    "rm_register",
    "uses_only_rsp",
]

REGISTER_NAMES = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
"""In the order of their numbers in machine code."""

_RSP = 4
_SHORT_FORMS = ((3, 6), (3, 7), (5, 6), (5, 7), (None, 6), (None, 7), (5, None), (3, None))
"""Base and index of the 16-bit forms by ModRM.rm (SDM volume 2, table 2-1)."""

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
    if encoding.has_short_addresses:
        base, index = _SHORT_FORMS[encoding.rm]
        return (None if encoding.mode == 0 and encoding.rm == 6 else base), index, 0
    if encoding.rm != _RSP:
        # Mod 00, r/m 101 is RIP-relative in 64-bit mode, and absolute in 32-bit mode.
        absolute = encoding.mode == 0 and encoding.rm == 5
        return None if absolute else rm_register(instruction), None, 0
    sib = instruction.code[encoding.opcode_offset + 2]
    index = (sib >> 3 & 7) | (rex & 2) << 2
    base = (sib & 7) | (rex & 1) << 3
    if index == _RSP:
        index = None
    if sib & 7 == 5 and encoding.mode == 0:
        base = None
    return base, index, sib >> 6


def uses_only_rsp(instruction: Instruction) -> bool:
    """The memory operand is RSP plus a constant, in the stack's own segment."""
    if instruction.encoding.is_rip_relative or _is_unusual(instruction.encoding):
        return False
    base, index, _ = _parts(instruction)
    return base == _RSP and index is None


def is_absolute(instruction: Instruction) -> bool:
    """The memory operand is a constant, in the segment that it has by default."""
    if instruction.encoding.is_rip_relative or _is_unusual(instruction.encoding):
        return False
    base, index, _ = _parts(instruction)
    return base is None and index is None


def _is_unusual(encoding: Encoding) -> bool:
    prefixes = Prefix.FS | Prefix.GS | Prefix.ADDRESS_SIZE
    if encoding.bits == 32:
        prefixes |= Prefix.OTHER_SEGMENT
    return encoding.prefixes & prefixes != 0


def is_clear_of_push(instruction: Instruction, registers: Registers) -> bool:
    """No byte of a call's memory operand is one that its push writes."""
    word, mask = instruction.encoding.word_size, instruction.encoding.address_mask
    operand = effective_address(instruction)(registers, instruction.next_address)
    return word <= (operand - registers.rsp + word) & mask <= mask - word + 1


def effective_address(instruction: Instruction, *, linear: bool = True) -> AddressOf:
    """How to compute the address of a legacy instruction's memory operand.

    `linear`: with the base of an FS or GS override, which LEA leaves out.
    """
    encoding = instruction.encoding
    displacement = instruction.displacement
    wrap = encoding.address_mask
    mask = wrap
    if encoding.prefixes & Prefix.ADDRESS_SIZE:
        mask = 0xFFFF_FFFF if encoding.bits == 64 else 0xFFFF
    base_name = index_name = None
    shift = 0
    if not encoding.is_rip_relative:
        base, index, shift = _parts(instruction)
        base_name = None if base is None else REGISTER_NAMES[base]
        index_name = None if index is None else REGISTER_NAMES[index]
    segment = None
    if linear and encoding.prefixes & (Prefix.FS | Prefix.GS):
        segment = _segment_base(instruction)

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
            address = address + base_value & wrap
        return address

    return address_of


def _segment_base(instruction: Instruction) -> str | None:
    """Of several overrides the last one counts; None: a segment that Linux has start at 0."""
    prefixes = instruction.code[: instruction.encoding.opcode_offset]
    fs, gs = prefixes.rfind(b"\x64"), prefixes.rfind(b"\x65")
    if instruction.encoding.bits == 32:
        other = max(prefixes.rfind(bytes([each])) for each in (0x26, 0x2E, 0x36, 0x3E))
        if other > max(fs, gs):
            return None
    return "fs_base" if fs > gs else "gs_base"
