"""What the predefined handlers have logged: one bounded ring for each process."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from ptrace_uprobes.arch.x86 import I386, of_code_segment
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS
from ptrace_uprobes.unwind import Stack
from ptrace_uprobes.utrace.refusals import NothingThere, with_errno

__all__ = ["LOG_BYTES", "Entry", "Log", "Record", "Records"]

LOG_BYTES: Final = 64 << 20
"""What a process's log may take of memory, about; the oldest records go first."""

_BASE_COST: Final = 300
_FRAME_COST: Final = 200
_OF_I386: Final = {
    **dict(I386.registers),
    "orig_eax": "orig_rax",
    "cs": "cs",
    "ss": "ss",
    "ds": "ds",
    "es": "es",
    "fs": "fs",
    "gs": "gs",
}
_REGISTERS = struct.Struct(f"<{len(USER_OFFSETS)}Q")


class Entry(NamedTuple):
    """A record as it is kept: small, and made without work."""

    pid: int
    tid: int
    time_ns: int
    vaddr: int | str
    address: int
    registers: bytes | None
    data: bytes | None
    stack: Stack | None

    def cost(self) -> int:
        cost = _BASE_COST
        if self.registers is not None:
            cost += len(self.registers)
        if self.data is not None:
            cost += len(self.data)
        if self.stack is not None:
            cost += _FRAME_COST * len(self.stack)
        return cost


@dataclass(frozen=True, slots=True)
class Record:
    """One execution that reached a breakpoint."""

    pid: int
    tid: int
    time_ns: int
    """CLOCK_MONOTONIC, as of kernel traces with trace_clock `mono`."""
    vaddr: int | str
    """The breakpoint, as it was given to utrace_addbp or utrace_launch."""
    address: int
    """Where that is in the process."""
    regs: dict[str, int] | None
    """UTRACE_GETREGS: by name, as before the instruction at the breakpoint. The names are
    i386's (`eax`, `eip` ...) where 32-bit code ran into it."""
    data: bytes | None
    """UTRACE_GETDATA: fewer bytes than asked for where not all are mapped, none of a bad
    pointer."""
    stack: Stack | None
    """UTRACE_STACKTRACE: frames, innermost first."""
    lost: int
    """Records between the one before and this one that the log had no room for."""


def _record(entry: Entry, lost: int) -> Record:
    registers = None
    if entry.registers is not None:
        registers = dict(zip(USER_OFFSETS, _REGISTERS.unpack(entry.registers), strict=True))
        if of_code_segment(registers["cs"]) is I386:
            registers = {name: registers[kernel] & I386.mask for name, kernel in _OF_I386.items()}
    return Record(
        pid=entry.pid,
        tid=entry.tid,
        time_ns=entry.time_ns,
        vaddr=entry.vaddr,
        address=entry.address,
        regs=registers,
        data=entry.data,
        stack=entry.stack,
        lost=lost,
    )


class Log:
    """A ring: written by the tracing thread, read by any number of threads.

    Each record is given once. Open while the process is probed.
    """

    def __init__(self, limit: int = LOG_BYTES) -> None:
        self._limit = limit
        self._entries: deque[Entry] = deque()
        self._size = 0
        self._lost = 0
        self._open = False
        self._process = os.getpid()
        self._changed = threading.Condition()
        self.exit_status: int | None = None
        self.failure: BaseException | None = None

    def add(self, entry: Entry) -> None:
        with self._changed:
            self._entries.append(entry)
            self._size += entry.cost()
            while self._size > self._limit and len(self._entries) > 1:
                self._size -= self._entries.popleft().cost()
                self._lost += 1
            self._changed.notify()

    def take(self, timeout: float | None) -> Record | None:
        """The oldest record; None if there is none and will be none, or none in `timeout`."""
        if os.getpid() != self._process:
            raise NothingThere(f"the log is process {self._process}'s; this one was forked from it")
        if timeout is not None and timeout > threading.TIMEOUT_MAX:
            timeout = None
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._entries:
                if not self._open:
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            entry = self._entries.popleft()
            self._size -= entry.cost()
            lost, self._lost = self._lost, 0
        return _record(entry, lost)

    def reopen(self) -> None:
        """The process is probed, or probed again."""
        with self._changed:
            self._open = True

    def close(self, exit_status: int | None, failure: BaseException | None) -> None:
        """The process is not probed any more; what was logged stays."""
        with self._changed:
            self._open = False
            self.exit_status = exit_status
            self.failure = failure
            self._changed.notify_all()

    @property
    def is_drained(self) -> bool:
        """Nothing to read is there, or will be."""
        with self._changed:
            return not (self._open or self._entries)


class Records(Iterator[Record]):
    """What `utrace_read` gives: waits for records, ends when there will be no more."""

    def __init__(self, log: Log, timeout: float | None, drained: Callable[[], None]) -> None:
        self._log = log
        self._timeout = timeout
        self._drained = drained
        self._over = False
        self.exit_status: int | None = None
        """After the end: the exit status of a launched program, 128+N if signal N ended it.
        None of a program that was attached to, or that goes on unprobed."""

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> Record:
        record = None if self._over else self._log.take(self._timeout)
        if record is not None:
            return record
        if not self._over:
            self._over = True
            if self._log.is_drained:
                self.exit_status = self._log.exit_status
                self._drained()
                if self._log.failure is not None:
                    with with_errno():
                        raise self._log.failure
        raise StopIteration
