"""Frames of code that has no call frame information: only what can be told for certain.

- A signal trampoline is known by its code, which sigreturn(2) gives little choice
  (musl's, Go's).
- A function has just been entered if the call before the return address goes to where it
  stands, or if that is a function's first instruction: then the return address is on top.
- A frame pointer is believed if what it points to is such a frame: a higher frame pointer,
  and an address behind a call instruction; and only of a function that is known to have set it
  up, for else it is a caller's, and the frames between would be missing. Known by its
  instructions, or because Go's compiler always does; of a caller that belongs to no module (a
  just-in-time compiler's code) it is supposed.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86_call import LONGEST_CALL, ends_with_call
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.unwind.history import BP, RA, SP
from ptrace_uprobes.unwind.memory import StackMemory, Unreadable
from ptrace_uprobes.unwind.row import Kind, Row

__all__ = ["Uncharted", "examine", "guess", "is_signal_trampoline", "trampoline_row"]

# mov $15 (__NR_rt_sigreturn), %rax or %eax; syscall
_TRAMPOLINES: Final = (b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05", b"\xb8\x0f\0\0\0\x0f\x05")
_LARGEST_FRAME: Final = 1 << 20
_PROLOGUES: Final = (b"\x55\x48\x89\xe5", b"\x55\x48\x8b\xec")  # push %rbp; mov %rsp,%rbp
_ENDBR64: Final = b"\xf3\x0f\x1e\xfa"
_RET: Final = b"\xc3"
_LATEST_PROLOGUE: Final = 1024
"""Bytes into a function. V8's builtins, in node, first look whether there is better code."""

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


class Uncharted(NamedTuple):
    """What code without CFI tells of its frame by itself, whatever is on the stack."""

    at_start: bool
    """It is a function's first instruction."""
    has_frame_pointer: bool
    """Its function has set up RBP by then, and not yet given it back."""
    why: str
    """Why its frame cannot be told."""


def examine(memory: StackMemory, module: Module | None, pc: int, *, exact: bool) -> Uncharted:
    """Cold: what there is to know of the code at an address that has no CFI."""
    if module is None:
        return Uncharted(at_start=False, has_frame_pointer=not exact, why="")
    try:
        found = module.image.symbol_at(module.to_elf(VirtAddr(pc if exact else pc - 1)))
        if module.image.is_go:
            at_start = exact and found is not None and found[1] == 0
            return Uncharted(at_start, has_frame_pointer=True, why="")
    except UprobesError:
        found = None
    if found is None:
        return Uncharted(False, False, ", and no symbol tells its function")
    symbol, into = found[0], found[1] + (not exact)
    code = memory.bytes_at(pc - into, min(into, _LATEST_PROLOGUE))
    at = len(_ENDBR64) if code.startswith(_ENDBR64) else 0
    set_up = code.startswith(_PROLOGUES, at)
    if not set_up and not exact and symbol.size != 0:
        set_up = any(prologue in code for prologue in _PROLOGUES)
    # Its last instruction follows the frame pointer's end.
    set_up = set_up and memory.bytes_at(pc, 1) != _RET
    why = "" if set_up else ", and its function does not keep a frame pointer"
    return Uncharted(into == 0, set_up, why)


def guess(
    memory: StackMemory, code: Uncharted, pc: int, sp: int, bp: int, *, exact: bool
) -> Row | None:
    """The row of a function without CFI, if it is certain enough."""
    try:
        if exact:
            back = memory.word(sp)
            before = memory.bytes_at(back - LONGEST_CALL, LONGEST_CALL)
            if ends_with_call(before):
                if before[2] == 0xE8 and back + struct.unpack("<i", before[3:])[0] == pc:
                    return _JUST_ENTERED
                if code.at_start or not memory.bytes_at(pc, 1):
                    return _JUST_ENTERED  # or a call to where there is nothing
            if code.at_start:
                return None
        # With nothing pushed since RBP was set, it is this function that has set it.
        believed = code.has_frame_pointer or (not exact and sp == bp)
        return _WITH_FRAME_POINTER if believed and _is_frame(memory, sp, bp) else None
    except Unreadable:
        return None


def _is_frame(memory: StackMemory, sp: int, bp: int) -> bool:
    if bp & 7 or not sp <= bp < sp + _LARGEST_FRAME:
        return False
    above = memory.word(bp)
    if above != 0 and not bp < above < bp + _LARGEST_FRAME:
        return False
    before = memory.bytes_at(memory.word(bp + 8) - LONGEST_CALL, LONGEST_CALL)
    return ends_with_call(before)
