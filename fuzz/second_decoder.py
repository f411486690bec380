"""iced-x86's opinion of the same bytes: another author's tables, against ours and capstone's."""

from __future__ import annotations

from typing import Final

import iced_x86
from iced_x86 import Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic

from ptrace_uprobes.arch.x86_encoding import Family
from ptrace_uprobes.ssol.plan import Mechanism, Plan

__all__ = ["SecondDecoder"]

_CODE_NAMES: Final = {
    value: name
    for name, value in vars(iced_x86.Code).items()
    if isinstance(value, int) and not name.startswith("_")
}
_PLAIN_FLOW: Final = (FlowControl.NEXT, FlowControl.INTERRUPT, FlowControl.EXCEPTION)


class SecondDecoder:
    """Names forms of instructions, and complains of what ours reads otherwise."""

    def __init__(self, bits: int = 64) -> None:
        self._bits = bits

    def decode(self, code: bytes) -> Instruction:
        return Decoder(self._bits, code, DecoderOptions.AMD).decode()

    def name(self, code: bytes) -> str:
        """Of the form, say `VADDPS_YMM_YMM_YMMM256`; empty if these bytes are unknown to it."""
        found = self.decode(code)
        return "" if found.is_invalid else _CODE_NAMES[found.code]

    def complaints(self, code: bytes, address: int, made: Plan) -> list[str]:
        """What would make a planned instruction be executed wrongly, were this one right."""
        if made.mechanism is Mechanism.REFUSE or made.instruction is None:
            return []
        padded = (code + b"\xcc" * 15)[:15]
        decoder = Decoder(self._bits, padded, DecoderOptions.AMD, ip=address)
        other = decoder.decode()
        if other.is_invalid:
            return []
        encoding = made.instruction.encoding
        found = []
        if other.mnemonic in (Mnemonic.UD0, Mnemonic.UD1):
            return []  # processors and disassemblers differ on what follows them; nothing is done
        if other.len != encoding.size:
            found.append(f"{encoding.size} bytes, {other.len} as {other}")
            return found
        offsets = decoder.get_constant_offsets(other)
        if encoding.displacement_size and not offsets.has_displacement:
            found.append(f"a displacement, and none in {other}")
        elif offsets.has_displacement and encoding.displacement_size:
            theirs = (offsets.displacement_offset, offsets.displacement_size)
            ours = (encoding.displacement_offset, encoding.displacement_size)
            if theirs != ours:
                found.append(f"the displacement at {ours}, {theirs} in {other}")
        if other.is_ip_rel_memory_operand != encoding.is_rip_relative:
            if not _has_no_access(other):
                found.append(f"a RIP-relative operand: {encoding.is_rip_relative}, not in {other}")
        hypercall = other.mnemonic in (Mnemonic.VMCALL, Mnemonic.VMMCALL)
        plain = other.flow_control in _PLAIN_FLOW or other.is_privileged or hypercall
        if not plain and _is_plain_copy(made):
            found.append(f"copied as if it did not transfer control: {other}")
        return found


def _has_no_access(other: Instruction) -> bool:
    """An operand that is encoded but named by no mnemonic."""
    return bool(other.op_count == 0)


def _is_plain_copy(made: Plan) -> bool:
    """One whose slot holds the instruction's own bytes and a jump to its successor."""
    assert made.instruction is not None
    encoding = made.instruction.encoding
    if encoding.family is not Family.LEGACY or encoding.opcode_map > 1:
        return True
    opcode = encoding.opcode
    if encoding.opcode_map == 1:
        # Of 32-bit code the fast system calls are copied: the kernel returns to the vDSO.
        return opcode not in (0x05, 0x34) and not 0x80 <= opcode <= 0x8F
    return not (
        0x70 <= opcode <= 0x7F
        or opcode in (0xC2, 0xC3, 0xE8, 0xE9, 0xEB)
        or 0xE0 <= opcode <= 0xE3
        or (opcode == 0xFF and encoding.reg in (2, 4))
        or (opcode == 0xC7 and encoding.modrm == 0xF8)
    )
