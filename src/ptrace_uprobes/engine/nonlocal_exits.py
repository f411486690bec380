"""Ways to leave a function without returning, which return probes must hear of.

Watched by probes of our own, which nobody sees:
- `longjmp` and its siblings; glibc keeps the stack pointer in word 6 of the jmp_buf, rotated
  and exclusive-ored with the thread's pointer guard (sysdeps/unix/sysv/linux/x86_64/__longjmp.S,
  `PTR_DEMANGLE`), other C libraries keep it as it is;
- `_Unwind_SetIP`, which every personality routine calls for each landing pad that it chooses:
  for C++ and Rust, for catches, clean-ups and thread cancellation alike. The context that it is
  given holds the stack pointer of the frame with the landing pad (`struct _Unwind_Context`,
  member `cfa`, libgcc/unwind-dw2.c).
"""

from __future__ import annotations

import itertools
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
_JB_RSP: Final = 6 * 8
_POINTER_GUARD: Final = 0x30
_ROTATION: Final = 17
_CONTEXT_CFA: Final = 18 * 8
_MOST_FRAMES: Final = 4096
_MAIN_STACK: Final = "[stack]"
_MASK: Final = (1 << 64) - 1


def _bottom(record: SpaceRecord, stack: Mapping) -> int:
    if stack.path != _MAIN_STACK:
        return stack.start
    # The main thread's grows downwards without our knowing, into space that is kept free for it.
    return max((m.end for m in record.mappings if m.end <= stack.start), default=0)


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
        if any(count.label == _LANDING_PAD for count in placed.watchers):
            target = self._word(thread, registers.rdi + _CONTEXT_CFA)
            if target is not None:
                registers.rip = placed.address
                self._unwound_to(thread, registers, target)
            return
        stored = self._word(thread, registers.rdi + _JB_RSP)
        guard = self._word(thread, registers.fs_base + _POINTER_GUARD)
        if stored is None:
            return
        for target in (self._demangled(stored, guard or 0), stored):
            if target % 8 == 0 and self._word(thread, target) is not None:
                stack = self._stack_of(thread, target)
                if stack is not None:
                    own = stack.path == _MAIN_STACK or stack.contains(registers.fs_base)
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
    def _demangled(word: int, guard: int) -> int:
        return ((word >> _ROTATION | word << (64 - _ROTATION)) & _MASK) ^ guard

    @staticmethod
    def _word(thread: Thread, address: int) -> int | None:
        data = thread.process.space.memory.read_some(address & _MASK, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None
