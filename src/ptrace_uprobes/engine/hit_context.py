"""What compiled fetchargs and filters see of a thread at a hit."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.process_info import command_name, last_cpu
from ptrace_uprobes.linux.ptrace_calls import TraceeGone, UserRegs, fast_ptrace
from ptrace_uprobes.tracee import Thread

__all__ = ["HitContext"]

_GETREGS: Final = ptrace_calls.GETREGS
_CS: Final = ptrace_calls.USER_OFFSETS["cs"]
_WIDE: Final = X86_64.code_segment
"""The lowest byte of each of the two selectors that there are: see `is_wide_code`."""


def _nothing(address: int, size: int) -> bytes:
    return b""


class HitContext:
    """One for all hits of an engine: `look_at` turns it to the next one."""

    __slots__ = (
        "_pointer",
        "address",
        "function",
        "pid",
        "read",
        "registers",
        "tid",
    )

    def __init__(self) -> None:
        self.registers = bytearray(ctypes.sizeof(UserRegs))
        buffer = (ctypes.c_char * len(self.registers)).from_buffer(self.registers)
        self._pointer = ctypes.byref(buffer)
        self.tid = 0
        self.pid = 0
        self.address = 0
        self.function = 0
        self.read: Callable[[int, int], bytes] = _nothing

    def look_at(self, thread: Thread, placed: PlacedSite, function: int, registers: bool) -> None:
        """Turn to a hit. HOT PATH: one system call, and that only if registers are looked at."""
        tid = thread.tid
        self.tid = tid
        process = thread.process
        self.pid = process.pid
        self.address = placed.address
        self.function = function
        record: SpaceRecord = process.space.extra
        self.read = record.traps.read_some
        if registers and fast_ptrace(_GETREGS, tid, 0, self._pointer) == -1:
            raise TraceeGone(tid)

    def is_wide(self) -> bool:
        """Whether it is 64-bit code that has hit; of the registers that were looked at last."""
        return self.registers[_CS] == _WIDE

    def comm(self) -> bytes:
        return command_name(self.tid).encode("utf-8", "surrogateescape")

    def cpu(self) -> int:
        return last_cpu(self.tid) or 0

    def xmm(self, number: int) -> bytes:
        return ptrace_calls.get_vector_register(self.tid, number)
