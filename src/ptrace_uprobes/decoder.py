"""Machine code as frozen `Instruction`s; the only importer of capstone.

Capstone gives text and a length. The facts that plans are made from come from
`arch.x86_encoding`, since capstone's details are slow to get from Python and, at the edges
of the instruction set, not always true; an instruction whose length the two do not agree
on is marked `disputed`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache

import capstone

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import I386, X86_64
from ptrace_uprobes.arch.x86_encoding import MAX_SIZE, Encoding, Family, Prefix, measure

__all__ = ["Instruction", "decode", "decode_bits"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction at its address."""

    address: VirtAddr
    code: bytes
    """Exactly its bytes."""
    mnemonic: str
    operands: str
    """Intel syntax, as capstone prints it; a branch's target is absolute."""
    encoding: Encoding
    disputed: bool
    """Capstone sees another length in these bytes."""

    @property
    def text(self) -> str:
        return f"{self.mnemonic} {self.operands}" if self.operands else self.mnemonic

    @property
    def next_address(self) -> VirtAddr:
        return VirtAddr((self.address + len(self.code)) & self.encoding.address_mask)

    @property
    def immediate(self) -> int:
        """The immediate, sign-extended; 0 when there is none."""
        offset = self.encoding.immediate_offset
        return int.from_bytes(
            self.code[offset : offset + self.encoding.immediate_size], "little", signed=True
        )

    @property
    def displacement(self) -> int:
        """The displacement of the memory operand, sign-extended; 0 when there is none."""
        offset = self.encoding.displacement_offset
        return int.from_bytes(
            self.code[offset : offset + self.encoding.displacement_size], "little", signed=True
        )

    @property
    def memory_target(self) -> VirtAddr:
        """The absolute address of a RIP-relative operand."""
        target = self.next_address + self.displacement
        if self.encoding.prefixes & Prefix.ADDRESS_SIZE:
            target &= 0xFFFF_FFFF
        return VirtAddr(target & self.encoding.address_mask)

    @property
    def branch_target(self) -> VirtAddr:
        """Where a relative branch goes."""
        return VirtAddr((self.next_address + self.immediate) & self.encoding.address_mask)


def decode(code: bytes, address: VirtAddr, arch: Architecture = X86_64) -> Instruction | None:
    """The instruction that `code` starts with; None if it is unknown or cut short.

    About 12 µs for bytes that were not seen before, 6 µs for those that were.
    """
    bits = _BITS.get(arch.elf_machine)
    return None if bits is None else decode_bits(code, address, bits)


_BITS = {X86_64.elf_machine: 64, I386.elf_machine: 32}


def decode_bits(code: bytes, address: VirtAddr, bits: int) -> Instruction | None:
    """`decode` for x86 by its mode: 64 or 32."""
    encoding = measure(code, bits)
    if encoding is None:
        return None
    code = bytes(code[: encoding.size])
    is_branch = is_relative_branch(encoding)
    # A branch has one text for all targets; its own is put in below.
    key = code[: encoding.immediate_offset].ljust(encoding.size, b"\0") if is_branch else code
    text = _text(key, bits)
    disputed = (text is None or text[0] != encoding.size) and not _is_undefined(encoding)
    if text is None:
        # Does capstone see a longer instruction here, or none at all?
        text = _text(key + bytes(MAX_SIZE - len(key)), bits)
        if text is None:
            return None
    operands = text[2]
    if is_branch:
        following = address + encoding.size
        distance = int.from_bytes(code[encoding.immediate_offset :], "little", signed=True)
        operands = hex(following + distance & encoding.address_mask)
    return Instruction(address, code, text[1], operands, encoding, disputed)


def is_relative_branch(encoding: Encoding) -> bool:
    """The immediate is a displacement from the next instruction."""
    if encoding.family is not Family.LEGACY:
        return False
    opcode = encoding.opcode
    if encoding.opcode_map == 0:
        return (
            0x70 <= opcode <= 0x7F
            or 0xE0 <= opcode <= 0xE3
            or opcode in (0xE8, 0xE9, 0xEB)
            or (opcode == 0xC7 and encoding.modrm == 0xF8)  # xbegin
        )
    return encoding.opcode_map == 1 and 0x80 <= opcode <= 0x8F


def _is_undefined(encoding: Encoding) -> bool:
    """UD0 and UD1: processors and disassemblers differ on whether a ModRM byte follows, which
    does not matter, since nothing is ever executed after them."""
    return (
        encoding.opcode_map == 1
        and encoding.opcode in (0xB9, 0xFF)
        and (encoding.family is Family.LEGACY)
    )


_disassemblers = {
    64: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64),
    32: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32),
}
_disassembler_lock = threading.Lock()  # a handle is not for two threads at once


@lru_cache(maxsize=8192)
def _text(code: bytes, bits: int) -> tuple[int, str, str] | None:
    """Length, mnemonic and operands as capstone sees them at address 0."""
    with _disassembler_lock:
        for _, size, mnemonic, operands in _disassemblers[bits].disasm_lite(code, 0, 1):
            return size, mnemonic, operands
    return None
