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
from ptrace_uprobes.unwind.history import CONVENTIONS, Convention
from ptrace_uprobes.unwind.memory import StackMemory, Unreadable
from ptrace_uprobes.unwind.row import Kind, Row

__all__ = ["Uncharted", "examine", "guess", "is_signal_trampoline", "trampoline_at"]

_LARGEST_FRAME: Final = 1 << 20
_PROLOGUES: Final = {  # push %rbp; mov %rsp,%rbp
    8: (b"\x55\x48\x89\xe5", b"\x55\x48\x8b\xec"),
    4: (b"\x55\x89\xe5", b"\x55\x8b\xec"),
}
_ENDBR: Final = (b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfb")  # endbr64, endbr32
_RET: Final = b"\xc3"
_LATEST_PROLOGUE: Final = 1024
"""Bytes into a function. V8's builtins, in node, first look whether there is better code."""

# struct ucontext, where RSP is when a handler has returned (arch/x86/include/uapi/asm/
# sigcontext.h, struct sigcontext_64, 40 bytes into it): DWARF registers by their offset.
_SAVED_64: Final = {
    **{8 + number: 40 + 8 * number for number in range(8)},
    5: 104,
    4: 112,
    6: 120,
    3: 128,
    1: 136,
    0: 144,
    2: 152,
    7: 160,
    16: 168,
}
# struct sigcontext_32 of the same file.
_SAVED_32: Final = {7: 16, 6: 20, 5: 24, 4: 28, 3: 32, 2: 36, 1: 40, 0: 44, 8: 56}


def _row_of_saved(machine: int, saved: dict[int, int], before: int = 0) -> Row:
    """`before`: bytes between the stack pointer and what `saved` counts from."""
    convention = CONVENTIONS[machine]
    return Row(
        cfa_register=convention.sp,
        cfa_offset=0,
        cfa_expression=None,
        rules={register: (Kind.OFFSET, before + at, b"") for register, at in saved.items()},
        return_address=convention.ra,
        is_signal=True,
    )


_X86_64, _I386 = 62, 3
_TRAMPOLINES: Final = {
    8: {
        # mov $15 (__NR_rt_sigreturn), %rax or %eax; syscall
        b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05": _row_of_saved(_X86_64, _SAVED_64),
        b"\xb8\x0f\0\0\0\x0f\x05": _row_of_saved(_X86_64, _SAVED_64),
    },
    4: {
        # pop %eax; mov $119 (__NR_sigreturn), %eax; int $0x80: behind the signal's number, struct
        # sigframe_ia32 has the context.
        b"\x58\xb8\x77\0\0\0\xcd\x80": _row_of_saved(_I386, _SAVED_32, 4),
        # mov $173 (__NR_rt_sigreturn), %eax; int $0x80: struct rt_sigframe_ia32 has number, two
        # pointers, siginfo_t, and 20 bytes into struct ucontext_ia32 the context.
        b"\xb8\xad\0\0\0\xcd\x80": _row_of_saved(_I386, _SAVED_32, 12 + 128 + 20),
    },
}
"""What a handler returns to, and how it is unwound; by the size of a word."""
_JUST_ENTERED: Final = {
    c.word: Row(c.sp, c.word, None, {c.ra: (Kind.OFFSET, -c.word, b"")}, c.ra, is_signal=False)
    for c in CONVENTIONS.values()
}
_WITH_FRAME_POINTER: Final = {
    c.word: Row(
        c.bp,
        2 * c.word,
        None,
        {c.ra: (Kind.OFFSET, -c.word, b""), c.bp: (Kind.OFFSET, -2 * c.word, b"")},
        c.ra,
        is_signal=False,
    )
    for c in CONVENTIONS.values()
}


def trampoline_at(code: bytes, convention: Convention) -> Row | None:
    """The row of a signal's return, if the instructions at an address are that."""
    for beginning, row in _TRAMPOLINES[convention.word].items():
        if code.startswith(beginning):
            return row
    return None


def is_signal_trampoline(code: bytes, word: int = 8) -> bool:
    """Whether the instructions at an address are a signal's return."""
    return code.startswith(tuple(_TRAMPOLINES[word]))


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
    at = len(_ENDBR[0]) if code.startswith(_ENDBR) else 0
    prologues = _PROLOGUES[module.image.elf_class // 8]
    set_up = code.startswith(prologues, at)
    if not set_up and not exact and symbol.size != 0:
        set_up = any(prologue in code for prologue in prologues)
    # Its last instruction follows the frame pointer's end.
    set_up = set_up and memory.bytes_at(pc, 1) != _RET
    why = "" if set_up else ", and its function does not keep a frame pointer"
    return Uncharted(into == 0, set_up, why)


def guess(
    memory: StackMemory,
    code: Uncharted,
    pc: int,
    sp: int,
    bp: int,
    convention: Convention,
    *,
    exact: bool,
) -> Row | None:
    """The row of a function without CFI, if it is certain enough."""
    word = convention.word
    just_entered = _JUST_ENTERED[word]
    try:
        if exact:
            back = memory.word(sp)
            before = memory.bytes_at(back - LONGEST_CALL, LONGEST_CALL)
            if ends_with_call(before):
                distance: int = struct.unpack("<i", before[3:])[0]
                if before[2] == 0xE8 and _same(back + distance, pc, word):
                    return just_entered
                if code.at_start or not memory.bytes_at(pc, 1):
                    return just_entered  # or a call to where there is nothing
            if code.at_start:
                return None
        # With nothing pushed since RBP was set, it is this function that has set it.
        believed = code.has_frame_pointer or (not exact and sp == bp)
        believed = believed and _is_frame(memory, sp, bp, word)
        return _WITH_FRAME_POINTER[word] if believed else None
    except Unreadable:
        return None


def _same(a: int, b: int, word: int) -> bool:
    return (a ^ b) & (1 << 8 * word) - 1 == 0


def _is_frame(memory: StackMemory, sp: int, bp: int, word: int) -> bool:
    if bp & word - 1 or not sp <= bp < sp + _LARGEST_FRAME:
        return False
    above = memory.word(bp)
    if above != 0 and not bp < above < bp + _LARGEST_FRAME:
        return False
    before = memory.bytes_at(memory.word(bp + word) - LONGEST_CALL, LONGEST_CALL)
    return ends_with_call(before)
