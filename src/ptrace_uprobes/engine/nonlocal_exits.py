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

from typing import Final

from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.returns import Returns
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.maps import read_maps
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
_LARGEST_STACK: Final = 64 << 20
_MASK: Final = (1 << 64) - 1


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
                self._returns.unwound(thread, registers.rsp, target)
            return
        stored = self._word(thread, registers.rdi + _JB_RSP)
        guard = self._word(thread, registers.fs_base + _POINTER_GUARD)
        if stored is None:
            return
        for target in (self._demangled(stored, guard or 0), stored):
            if target % 8 == 0 and self._word(thread, target) is not None:
                bottom = self._bottom_of_own_stack(thread, target, registers.fs_base)
                if bottom is not None:
                    self._returns.unwound(thread, bottom, target)
                else:
                    self._returns.jumped_to(thread, target)
                return

    @staticmethod
    def _bottom_of_own_stack(thread: Thread, target: int, fs_base: int) -> int | None:
        """Where the stack that the thread was born with ends, if `target` is on it.

        On another one, a coroutine's, there is no telling which frames belong to whom. C
        libraries keep a thread's control block at the top of its stack, and FS points there.
        """
        record: SpaceRecord = thread.process.space.extra
        mapping = record.mapping_at(target)
        if mapping is None or not (mapping.path == "[stack]" or mapping.contains(fs_base)):
            record.mappings = read_maps(thread.tid)
            mapping = record.mapping_at(target)
        if mapping is None:
            return None
        if mapping.path == "[stack]":
            # It grows downwards without our knowing, into space that is kept free for it.
            return target - _LARGEST_STACK
        return mapping.start if mapping.contains(fs_base) else None

    @staticmethod
    def _demangled(word: int, guard: int) -> int:
        return ((word >> _ROTATION | word << (64 - _ROTATION)) & _MASK) ^ guard

    @staticmethod
    def _word(thread: Thread, address: int) -> int | None:
        data = thread.process.space.memory.read_some(address & _MASK, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None
