"""Frames of code that has no call frame information: only what can be told for certain.

- A signal trampoline is known by its code, which sigreturn(2) gives little choice
  (musl's, Go's).
- A function has just been entered if the call before the return address goes to where it
  stands, or if that is a function's first instruction: then the return address is on top.
- A frame pointer is believed if what it points to is such a frame: a higher frame pointer,
  and an address behind a call instruction. Of the innermost function, only if it is one that
  is known to have set it up: by its first instructions, or because Go's compiler always does.
"""

from __future__ import annotations

import struct
from typing import Final

from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.unwind.history import BP, RA, SP
from ptrace_uprobes.unwind.memory import StackMemory, Unreadable
from ptrace_uprobes.unwind.row import Kind, Row

__all__ = ["guess", "is_signal_trampoline", "trampoline_row"]

# mov $15 (__NR_rt_sigreturn), %rax or %eax; syscall
_TRAMPOLINES: Final = (b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05", b"\xb8\x0f\0\0\0\x0f\x05")
_LARGEST_FRAME: Final = 1 << 20
_PROLOGUE: Final = b"\x55\x48\x89\xe5"  # push %rbp; mov %rsp,%rbp
_ENDBR64: Final = b"\xf3\x0f\x1e\xfa"

# struct ucontext, where RSP is when a handler has returned (arch/x86/include/uapi/asm/
# sigcontext.h, struct sigcontext_64, 40 bytes into it): DWARF registers by their offset.
_SAVED: Final = {
    **{8 + number: 40 + 8 * number for number in range(8)},
    5: 104,
    4: 112,
    BP: 120,
    3: 128,
    1: 136,
    0: 144,
    2: 152,
    SP: 160,
    RA: 168,
}
trampoline_row: Final = Row(
    cfa_register=SP,
    cfa_offset=0,
    cfa_expression=None,
    rules={register: (Kind.OFFSET, offset, b"") for register, offset in _SAVED.items()},
    return_address=RA,
    is_signal=True,
)
_JUST_ENTERED: Final = Row(SP, 8, None, {RA: (Kind.OFFSET, -8, b"")}, RA, is_signal=False)
_WITH_FRAME_POINTER: Final = Row(
    BP,
    16,
    None,
    {RA: (Kind.OFFSET, -8, b""), BP: (Kind.OFFSET, -16, b"")},
    RA,
    is_signal=False,
)


def is_signal_trampoline(code: bytes) -> bool:
    """Whether the instructions at an address are a signal's return."""
    return code.startswith(_TRAMPOLINES)


def guess(
    memory: StackMemory, module: Module | None, pc: int, sp: int, bp: int, *, exact: bool
) -> Row | None:
    """The row of a function without CFI, if it is certain enough."""
    try:
        if exact:
            return _guess_innermost(memory, module, pc, sp, bp)
        return _WITH_FRAME_POINTER if _is_frame(memory, sp, bp) else None
    except Unreadable:
        return None


def _guess_innermost(
    memory: StackMemory, module: Module | None, pc: int, sp: int, bp: int
) -> Row | None:
    back = memory.word(sp)
    before = memory.bytes_at(back - 7, 7)
    if len(before) == 7 and _is_call(before):
        if before[2] == 0xE8 and back + struct.unpack("<i", before[3:])[0] == pc:
            return _JUST_ENTERED
        if not memory.bytes_at(pc, 1):
            return _JUST_ENTERED  # a call to where there is nothing
    if module is None:
        return None
    found = module.image.symbol_at(module.to_elf(module.start.__class__(pc)))
    if found is not None and found[1] == 0:
        return _JUST_ENTERED if len(before) == 7 and _is_call(before) else None
    if not _is_frame(memory, sp, bp):
        return None
    if module.image.is_go:
        return _WITH_FRAME_POINTER
    if found is None:
        return None
    start = memory.bytes_at(pc - found[1], 8)
    prologue = start[4:8] if start.startswith(_ENDBR64) else start[:4]
    set_up = len(_PROLOGUE) + (4 if start.startswith(_ENDBR64) else 0)
    # Before its last instruction, which follows the frame pointer's end.
    at_return = memory.bytes_at(pc, 1) == b"\xc3"
    if prologue == _PROLOGUE and found[1] >= set_up and not at_return:
        return _WITH_FRAME_POINTER
    return None


def _is_frame(memory: StackMemory, sp: int, bp: int) -> bool:
    if bp & 7 or not sp <= bp < sp + _LARGEST_FRAME:
        return False
    above = memory.word(bp)
    if above != 0 and not bp < above < bp + _LARGEST_FRAME:
        return False
    before = memory.bytes_at(memory.word(bp + 8) - 7, 7)
    return len(before) == 7 and _is_call(before)


def _is_call(before: bytes) -> bool:
    """Whether the last of these 7 bytes can be the last of a call instruction."""
    if before[2] == 0xE8:  # call rel32
        return True
    # call r/m64: FF /2, with a SIB byte and a displacement or without
    for length in (2, 3, 4, 6, 7):
        opcode, modrm = before[-length], before[-length + 1]
        if opcode != 0xFF or modrm >> 3 & 7 != 2:
            continue
        mode, operand = modrm >> 6, modrm & 7
        size = 2 + (operand == 4 and mode != 3)
        size += 4 if mode == 2 or (mode == 0 and operand == 5) else int(mode == 1)
        if mode == 0 and operand == 4 and length > 3 and before[-length + 2] & 7 == 5:
            size += 4
        if size == length:
            return True
    return False
