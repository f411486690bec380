"""Slot code for each class of displaced instruction: instruction and place in, bytes out.

Nothing here touches the stack below RSP otherwise than the displaced instruction does
(SysV ABI 3.2.2, the red zone), nor a flag, nor a register that it does not write.
"""

from __future__ import annotations

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86_encoding import Family, Prefix
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.errors import OutOfReach
from ptrace_uprobes.ssol.slot import SlotCode
from ptrace_uprobes.ssol.x86_write import MASK, SlotWriter, jump_size, reaches

__all__ = [
    "call_memory",
    "call_register",
    "call_relative",
    "conditional",
    "copy",
    "copy_jump",
    "copy_scratch",
    "jump_relative",
    "lea",
    "loop",
    "scratch_register",
    "syscall",
    "touch_stack",
    "transaction",
]


def _writer(instruction: Instruction, slot: VirtAddr) -> SlotWriter:
    return SlotWriter(slot, instruction.address, instruction.encoding.address_mask)


def mended(instruction: Instruction, here: VirtAddr) -> bytes:
    """The instruction's bytes for execution at `here`, a RIP-relative operand mended."""
    encoding = instruction.encoding
    code = instruction.code
    if not encoding.is_rip_relative:
        return code
    target = instruction.memory_target
    source = (here + len(code)) & MASK
    if encoding.prefixes & Prefix.ADDRESS_SIZE:
        # The sum is cut to 32 bits, so that every distance can be written.
        displacement = ((target - source) & 0xFFFF_FFFF).to_bytes(4, "little")
    elif reaches(source, target):
        displacement = ((target - source) & 0xFFFF_FFFF).to_bytes(4, "little")
    else:
        raise OutOfReach(here, target)
    start = encoding.displacement_offset
    return code[:start] + displacement + code[start + 4 :]


def copy(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """The instruction itself, then back to its successor."""
    writer = _writer(instruction, slot)
    writer.before()
    writer.put(mended(instruction, slot))
    writer.after(instruction.next_address)
    writer.jump(instruction.next_address)
    return writer.finish()


def copy_jump(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """An instruction that always goes elsewhere, and never by a relative target."""
    writer = _writer(instruction, slot)
    writer.before()
    writer.put(mended(instruction, slot))
    return writer.finish()


_SCRATCH_NUMBERS = (6, 7, 3)


def scratch_register(instruction: Instruction) -> int:
    """A register that the instruction does not use, for its RIP-relative operand's base.

    RSI, RDI or RBX, as in riprel_analyze of arch/x86/kernel/uprobes.c: no instruction with
    a memory operand uses all three implicitly, and only ModRM.reg and VEX.vvvv can name one.
    """
    encoding = instruction.encoding
    used = {encoding.reg}
    if encoding.family is not Family.LEGACY:
        # vvvv is inverted, in the third byte of C4, 62 and 8F and in the second of C5.
        offset = encoding.vector_prefix_offset
        third = instruction.code[offset + (1 if instruction.code[offset] == 0xC5 else 2)]
        used.add(~third >> 3 & 7)
    return next(number for number in _SCRATCH_NUMBERS if number not in used)


def copy_scratch(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """The instruction with a scratch register for RIP as its operand's base.

    Only for stepping: the tracer loads the register before, and restores it after.
    """
    encoding = instruction.encoding
    code = bytearray(instruction.code)
    # mod 10, disp32, r/m the register; REX.B, VEX.B and the like must then be clear.
    modrm_offset = encoding.displacement_offset - 1
    code[modrm_offset] = encoding.modrm & 0x38 | 0x80 | scratch_register(instruction)
    offset = encoding.vector_prefix_offset
    if encoding.family is Family.LEGACY:
        if encoding.rex:
            code[offset - 1] &= 0xFE
    elif code[offset] != 0xC5:
        code[offset + 1] |= 0x60  # X and B are inverted
    writer = _writer(instruction, slot)
    writer.before()
    writer.put(bytes(code))
    writer.after(instruction.next_address)
    writer.jump(instruction.next_address)
    return writer.finish()


def lea(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """`lea d(%rip), %reg` is a constant."""
    encoding = instruction.encoding
    register = encoding.reg | (8 if encoding.rex & 4 else 0)
    value = int(instruction.memory_target)
    rex_b = register >> 3
    opcode = bytes([0xB8 | register & 7])
    if encoding.wide:
        # movabs $value, %r64
        code = bytes([0x48 | rex_b]) + opcode + value.to_bytes(8, "little")
    elif encoding.prefixes & Prefix.OPERAND_SIZE:
        # mov $value, %r16
        code = b"\x66" + bytes([0x40 | rex_b]) + opcode + (value & 0xFFFF).to_bytes(2, "little")
    else:
        # mov $value, %r32
        code = bytes([0x40 | rex_b]) + opcode + (value & 0xFFFF_FFFF).to_bytes(4, "little")
    writer = _writer(instruction, slot)
    writer.before()
    writer.put(code)
    writer.after(instruction.next_address)
    writer.jump(instruction.next_address)
    return writer.finish()


def _push_return_address(writer: SlotWriter, instruction: Instruction) -> None:
    """Push the original successor's address, in one or two instructions."""
    address = instruction.next_address
    low = address & 0xFFFF_FFFF
    high = address >> 32
    writer.before()
    # push $low (in 64-bit mode sign-extended to 64 bits)
    writer.put(b"\x68" + low.to_bytes(4, "little"))
    if instruction.encoding.bits == 64 and high != (0xFFFF_FFFF if low >> 31 else 0):
        writer.before(sp_delta=8)
        # movl $high, 4(%rsp)
        writer.put(b"\xc7\x44\x24\x04" + high.to_bytes(4, "little"))


def call_relative(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    writer = _writer(instruction, slot)
    _push_return_address(writer, instruction)
    # What is left is a jump to a constant: the call is as good as done.
    writer.after(instruction.branch_target)
    writer.jump(instruction.branch_target)
    return writer.finish()


def _as_jump(instruction: Instruction, code: bytes) -> bytes:
    """The FF /2 in `code` as FF /4: every prefix and operand byte stays."""
    offset = instruction.encoding.opcode_offset + 1
    modrm = code[offset] & ~0x38 | 0x20
    return code[:offset] + bytes([modrm]) + code[offset + 1 :]


def call_register(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """`call *%reg`, any but RSP."""
    writer = _writer(instruction, slot)
    _push_return_address(writer, instruction)
    writer.before(sp_delta=instruction.encoding.word_size)
    writer.put(_as_jump(instruction, instruction.code))
    return writer.finish()


def call_memory(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """`call *memory`: the push comes before the load.

    That differs from the instruction if the operand lies in the word that the push
    writes. A RIP-relative or absolute operand does not (code is not on a stack, nor is what
    has a place in a file), nor one above RSP; with
    any other the tracer emulates, and comes here for the fault alone. It differs, too, in
    which of two faults is met, when both accesses have no memory.
    """
    writer = _writer(instruction, slot)
    _push_return_address(writer, instruction)
    writer.before(sp_delta=instruction.encoding.word_size)
    writer.put(_as_jump(instruction, _past_push(instruction, mended(instruction, writer.here))))
    return writer.finish()


def _past_push(instruction: Instruction, code: bytes) -> bytes:
    """`code` with an RSP-based operand raised by the bytes that the push has taken."""
    encoding = instruction.encoding
    modrm_offset = encoding.opcode_offset + 1
    if encoding.has_short_addresses or encoding.rm != 4:
        return code
    if code[modrm_offset + 1] & 7 != 4 or encoding.rex & 1:
        return code
    displacement = instruction.displacement + encoding.word_size
    if displacement > 0x7FFF_FFFF:
        if encoding.bits == 64:
            raise OutOfReach(instruction.address, VirtAddr(displacement))
        displacement -= 1 << 32  # addresses wrap there
    # mod 10, disp32
    modrm = code[modrm_offset] & 0x3F | 0x80
    return (
        code[:modrm_offset]
        + bytes([modrm, code[modrm_offset + 1]])
        + displacement.to_bytes(4, "little", signed=True)
    )


def touch_stack(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """Touch the stack as a call does, and go back to the site for another try.

    For a call that only the tracer can do. It comes here when its own push found no memory,
    so that the kernel extends the stack or the program gets its fault.
    """
    writer = _writer(instruction, slot)
    word = instruction.encoding.word_size
    writer.before()
    # push -word(%rsp): the address is computed before RSP moves, so that nothing changes
    writer.put(b"\xff\x74\x24" + bytes([-word & 0xFF]))
    writer.before(sp_delta=word)
    # lea word(%rsp), %rsp; in 32-bit mode without REX.W
    writer.put((b"\x48" if word == 8 else b"") + b"\x8d\x64\x24" + bytes([word]))
    writer.before()
    writer.jump(instruction.address)
    return writer.finish()


def jump_relative(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    writer = _writer(instruction, slot)
    writer.before()
    writer.jump(instruction.branch_target)
    return writer.finish()


def conditional(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """Jcc: straight to its target where that is in reach."""
    condition = instruction.encoding.opcode & 0x0F
    if not reaches(slot + 6, instruction.branch_target, instruction.encoding.address_mask):
        return _two_exits(instruction, slot, bytes([0x70 | condition]))
    writer = _writer(instruction, slot)
    writer.before()
    # jcc target
    displacement = writer.displacement_to(instruction.branch_target, 6)
    writer.put(bytes([0x0F, 0x80 | condition]) + displacement)
    writer.after(instruction.next_address)
    writer.jump(instruction.next_address)
    return writer.finish()


def loop(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """LOOPcc and JrCXZ, which have only an 8-bit form.

    Every prefix stays: 0x67 makes them count in ECX, and AMD processors let F2 and F3 turn
    LOOPE and LOOPNE into one another.
    """
    return _two_exits(instruction, slot, instruction.code[:-1])


def transaction(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """XBEGIN: its abort address as the original's."""
    target, following = instruction.branch_target, instruction.next_address
    writer = _writer(instruction, slot)
    writer.before()
    if reaches(slot + 6, target, writer.mask):
        # xbegin target
        writer.put(b"\xc7\xf8" + writer.displacement_to(target, 6))
        writer.after(following)
        writer.jump(following)
        return writer.finish()
    # xbegin 1f; jmp *following; 1: jmp *target
    writer.put(b"\xc7\xf8" + jump_size(slot + 6, following, writer.mask).to_bytes(4, "little"))
    writer.after(following)
    writer.jump(following)
    writer.after(target)
    writer.jump(target)
    return writer.finish()


def _two_exits(instruction: Instruction, slot: VirtAddr, opcode: bytes) -> SlotCode:
    """`opcode` 1f; jmp next; 1: jmp target."""
    target, following = instruction.branch_target, instruction.next_address
    writer = _writer(instruction, slot)
    writer.before()
    size = len(opcode) + 1
    writer.put(opcode + bytes([jump_size(slot + size, following, writer.mask)]))
    writer.after(following)
    writer.jump(following)
    writer.after(target)
    writer.jump(target)
    return writer.finish()


def syscall(instruction: Instruction, slot: VirtAddr) -> SlotCode:
    """SYSCALL leaves its successor's address in RCX (SDM volume 2): the original's."""
    following = instruction.next_address
    writer = _writer(instruction, slot)
    writer.before()
    writer.put(instruction.code)
    writer.after(following, registers=(("rcx", following),))
    # movabs $following, %rcx
    writer.put(b"\x48\xb9" + following.to_bytes(8, "little"))
    writer.after(following)
    writer.jump(following)
    return writer.finish()
