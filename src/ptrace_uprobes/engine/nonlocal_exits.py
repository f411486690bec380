"""Ways to leave a function without returning, which return probes must hear of.

Watched by probes of our own, which nobody sees:
- `longjmp` and its siblings; glibc keeps the stack pointer in word 6 (i386: 4) of the jmp_buf,
  rotated and exclusive-ored with the thread's pointer guard (sysdeps/x86_64/__longjmp.S, i386/
  __longjmp.S, `PTR_DEMANGLE`), other C libraries keep it as it is;
- `_Unwind_SetIP`, which every personality routine calls for each landing pad that it chooses:
  for C++ and Rust, for catches, clean-ups and thread cancellation alike. The context that it is
  given holds the stack pointer of the frame with the landing pad (`struct _Unwind_Context`,
  member `cfa`, libgcc/unwind-dw2.c).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.returns import Returns
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.maps import Mapping, read_maps
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.tracee import Thread

__all__ = ["WATCHED", "NonlocalExits"]

_LANDING_PAD: Final = "_Unwind_SetIP"
WATCHED: Final = (
    "longjmp",
    "_longjmp",
    "siglongjmp",
    "__longjmp_chk",
    "__libc_longjmp",
    "__libc_siglongjmp",
    _LANDING_PAD,
)
"""Functions, in whatever module has them."""
_CONTEXT_CFA: Final = 18
"""In words: both have 17 DWARF registers (DWARF_FRAME_REGISTERS, gcc/config/i386/i386.h)."""
_MOST_FRAMES: Final = 4096
_MAIN_STACK: Final = "[stack]"


@dataclass(frozen=True, slots=True)
class _JumpBuffer:
    """Where longjmp's target is; sysdeps/x86_64/jmpbuf-offsets.h, i386/jmpbuf-offsets.h."""

    stack_pointer: int
    """In words."""
    guard_base: str
    pointer_guard: int
    rotation: int


_BUFFERS: Final = {
    8: _JumpBuffer(6, "fs_base", 0x30, 17),
    4: _JumpBuffer(4, "gs_base", 0x18, 9),
}
"""By the size of a word."""


def _bottom(record: SpaceRecord, stack: Mapping) -> int:
    if stack.path != _MAIN_STACK:
        return stack.start
    # The main thread's grows downwards without our knowing, into space that is kept free for it.
    return max((m.end for m in record.mappings if m.end <= stack.start), default=0)


def _demangled(stored: int, guard: int, rotation: int, word: int) -> int:
    bits = 8 * word
    rotated = stored >> rotation | stored << (bits - rotation)
    return (rotated & (1 << bits) - 1) ^ guard


class NonlocalExits:
    """Tells `Returns` which frames a jump leaves."""

    __slots__ = ("_returns",)

    def __init__(self, returns: Returns) -> None:
        self._returns = returns

    def on_watched(self, thread: Thread, placed: PlacedSite) -> None:
        """A thread is about to leave functions by one of `WATCHED`."""
        if not thread.active_calls:
            return
        registers = ptrace_calls.get_registers(thread.tid)
        word = thread.word
        argument: int | None = registers.rdi
        if word == 4:
            argument = self._word(thread, registers.rsp + word)
        if argument is None:
            return
        if any(count.label == _LANDING_PAD for count in placed.watchers):
            target = self._word(thread, argument + _CONTEXT_CFA * word)
            if target is not None:
                registers.rip = placed.address
                self._unwound_to(thread, registers, target)
            return
        buffer = _BUFFERS[word]
        tls_base = getattr(registers, buffer.guard_base)
        stored = self._word(thread, argument + buffer.stack_pointer * word)
        guard = self._word(thread, tls_base + buffer.pointer_guard)
        if stored is None:
            return
        for target in (_demangled(stored, guard or 0, buffer.rotation, word), stored):
            if target % word == 0 and self._word(thread, target) is not None:
                stack = self._stack_of(thread, target)
                if stack is not None:
                    own = stack.path == _MAIN_STACK or stack.contains(tls_base)
                    leave = self._returns.unwound if own else self._returns.jumped_to
                    leave(thread, _bottom(thread.process.space.extra, stack), target, stack.end)
                return

    def _unwound_to(self, thread: Thread, registers: UserRegs, target: int) -> None:
        """All frames from here to there are left."""
        here: int = registers.rsp
        inner, outer = self._stack_of(thread, here), self._stack_of(thread, target)
        if outer is None:
            return
        if inner is outer:
            self._returns.unwound(thread, here, target, outer.end)
            return
        # From a signal handler's stack. Between the two there may be those of coroutines: here
        # it counts which frames they are.
        ends = thread.process.space.extra.frame_ends(registers, _MOST_FRAMES)
        left = itertools.takewhile(lambda end: not target < end < outer.end, ends)
        self._returns.frames_left(thread, left)

    @staticmethod
    def _stack_of(thread: Thread, address: int) -> Mapping | None:
        """The mapping that holds a stack's address.

        On the stack that a thread was born with, frames below another are of calls from it: C
        libraries keep the thread's control block at its top, and FS points there. On another
        one, a coroutine's, there is no telling which frames belong to whom.
        """
        record: SpaceRecord = thread.process.space.extra
        mapping = record.mapping_at(address)
        if mapping is None or mapping.is_file:
            record.mappings = read_maps(thread.tid)
            mapping = record.mapping_at(address)
        return mapping

    @staticmethod
    def _word(thread: Thread, address: int) -> int | None:
        mask = thread.process.space.architecture.mask
        data = thread.process.space.memory.read_some(address & mask, thread.word)
        return int.from_bytes(data, "little") if len(data) == thread.word else None
