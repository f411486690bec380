"""Traps whose SIGTRAP the kernel has dropped.

A signal below the real-time ones is queued once at most: a thread that runs into a trap in the
moment in which another thread has sent it SIGTRAP gets that one alone (kernel/signal.c,
legacy_queue), and stands behind the trap without having executed the displaced instruction. Inside
of a longer instruction that is all it can be. Behind one of a single byte the next one starts, and
the thread may as well have come to that.
"""

from __future__ import annotations

import re
from typing import Final

from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.tracee import Thread

__all__ = ["is_before_padding", "stands_behind_a_lost_trap"]

_REGISTERS: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_PUSH, _POP, _LEAVE, _RET = 0x50, 0x58, 0xC9, 0xC3
_RSP: Final = 4
_CALL: Final = 0xE8
_ALIGNMENT: Final = 16
_NO_OPERATION: Final = (
    rb"(?:\xcc|\x66*\x90|[\x66\x2e]*\x0f\x1f(?:\x00|\x40.|\x44..|[\x80].{4}|[\x84].{5}))"
)
_PADDING: Final = re.compile(_NO_OPERATION + b"*", re.DOTALL)
_BEGUN: Final = re.compile(rb"[\x66\x2e]*(?:\x0f(?:\x1f.{0,5})?)?", re.DOTALL)


def is_before_padding(code: bytes, address: int) -> bool:
    """Whether `code`, which begins at `address`, is a `ret` and then what assemblers fill up with
    to the next multiple of 16 or more, which nothing leads to; as far as `code` goes."""
    fill = -(address + 1) % _ALIGNMENT
    if not code or code[0] != _RET or not fill or len(code) == 1:
        return False
    padding = _PADDING.match(code, 1)
    end = 1 if padding is None else padding.end()
    return end > fill or _BEGUN.fullmatch(code, end) is not None


def stands_behind_a_lost_trap(thread: Thread, placed: PlacedSite) -> bool:
    """Whether a thread that stops for a SIGTRAP of no trap's right behind a site has run into the
    site's trap all the same. Raises `TraceeGone`.

    For an instruction of one byte it is told by what the instruction would have done. Where
    nothing tells, the thread is taken to have come by: the moment in which both happen is short.
    """
    code = ptrace_calls.signal_code(thread.tid)
    if code is None or code > 0:
        return False  # the kernel's, for something that the thread has done
    if placed.certain:
        return True
    opcode = placed.plan.code[0]
    registers = ptrace_calls.get_registers(thread.tid)
    size = 8 if placed.is_wide else 4
    try:
        if opcode == _RET:
            return not _was_called(thread, registers, size)
        if _PUSH <= opcode < _PUSH + 8:
            value = registers.rsp + size if opcode - _PUSH == _RSP else _value(opcode, registers)
            return _word(thread, registers.rsp, size) != value & ((1 << 8 * size) - 1)
        if _POP <= opcode < _POP + 8 and opcode - _POP != _RSP:
            return _word(thread, registers.rsp - size, size) != _value(opcode, registers)
        if opcode == _LEAVE:
            return _word(thread, registers.rsp - size, size) != int(registers.rbp)
    except MemoryFault:
        return True  # each of them has touched that memory
    return False


def _was_called(thread: Thread, registers: UserRegs, size: int) -> bool:
    """Whether the thread stands at the first instruction of a function that was called: that may
    follow right upon a `ret`."""
    back = _word(thread, registers.rsp, size)
    try:
        call = thread.memory.read(back - 5, 5)
    except MemoryFault:
        return False
    distance = int.from_bytes(call[1:], "little", signed=True)
    return bool(call[0] == _CALL and back + distance == registers.rip)


def _value(opcode: int, registers: UserRegs) -> int:
    value: int = getattr(registers, _REGISTERS[opcode & 7])
    return value


def _word(thread: Thread, address: int, size: int) -> int:
    return int.from_bytes(thread.memory.read(address, size), "little")
