"""The traps in one address space, and reads of its memory that do not show them.

A trap is one byte of a private copy of a page: the kernel copies the page when it is
written through /proc/PID/mem, so neither the file nor any other process that maps it sees it.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.linux.memory import ProcessMemory
from ptrace_uprobes.linux.process_info import CLOCK_GRAIN

__all__ = ["TrapJournal", "TrapTable"]

_Address = TypeVar("_Address", bound=int)
_JOIN = 512
"""Traps closer than this are written in one go: a write costs about what copying 2 KiB does."""


class TrapJournal(Protocol):
    """Is told of each trap before it stands, and after it is out."""

    def note(self, traps: Iterable[tuple[int, int]]) -> None:
        """(address, original byte) of each."""
        ...

    def strike(self, addresses: Iterable[int]) -> None: ...


class TrapTable:
    """Which addresses hold a trap of ours, and the bytes that stood there."""

    __slots__ = ("_armed", "_changed_at", "_memory", "_originals", "_sorted", "_trap", "journal")

    def __init__(self, memory: ProcessMemory, architecture: Architecture) -> None:
        self._memory = memory
        self._trap = architecture.breakpoint
        self._armed: dict[int, int] = {}
        self._originals: dict[int, int] = {}
        """Of every trap there ever was: a fork may have copied one that is gone by now."""
        self._changed_at = 0.0
        self._sorted: list[int] | None = []
        self.journal: TrapJournal | None = None

    def keep_in(self, journal: TrapJournal) -> None:
        """Have all traps told to a journal, those that stand already too."""
        journal.note(self._armed.items())
        self.journal = journal

    def __len__(self) -> int:
        return len(self._armed)

    def __contains__(self, address: int) -> bool:
        return address in self._armed

    def addresses(self) -> list[VirtAddr]:
        return [VirtAddr(address) for address in self._armed]

    def copy_for(
        self, memory: ProcessMemory, architecture: Architecture, forked_at: float
    ) -> TrapTable:
        """The table of a forked child, whose memory is a copy of what this one's was at
        `forked_at` (CLOCK_BOOTTIME, in seconds)."""
        other = TrapTable(memory, architecture)
        other._originals = dict(self._originals)
        other._sorted = None
        if self._changed_at < forked_at - CLOCK_GRAIN or not memory.by_file:
            other._armed = dict(self._armed)
        else:
            # Traps came or went at about that time: only the child's memory can tell.
            for address, original in self._originals.items():
                if original == self._trap[0]:
                    shown = address in self._armed  # the program's own looks the same
                else:
                    shown = memory.read_some(address, 1) == self._trap
                if shown:
                    other._armed[address] = original
        return other

    def _note_change(self) -> None:
        self._sorted = None
        self._changed_at = time.clock_gettime(time.CLOCK_BOOTTIME)

    def arm(self, addresses: Sequence[VirtAddr], *, joined: bool) -> list[VirtAddr]:
        """Write traps; gives the addresses that could not be written, which hold none.

        `joined` allows one write over many traps and the bytes between them. It is for memory
        that the program cannot write itself: a byte that it changed meanwhile would be lost.
        """
        failed: list[VirtAddr] = []
        todo = sorted({address for address in addresses if address not in self._armed})
        for run in _runs(todo, _JOIN if joined else 1):
            start, end = run[0], run[-1] + 1
            before = b""
            try:
                before = self._memory.read(start, end - start)
                data = bytearray(before)
                for address in run:
                    self._originals[address] = data[address - start]
                    self._armed[address] = data[address - start]
                    data[address - start : address - start + 1] = self._trap
                if self.journal is not None:
                    self.journal.note((address, self._armed[address]) for address in run)
                self._memory.write(start, bytes(data))
            except MemoryFault:
                for address in run:
                    self._armed.pop(address, None)
                if len(run) == 1:
                    failed.append(run[0])
                else:
                    self._undo(start, before)
                    failed += [a for one in run for a in self.arm([one], joined=False)]
        self._note_change()
        return failed

    def _undo(self, start: int, before: bytes) -> None:
        """Part of a joined write may have got through: put its bytes back, one by one."""
        for offset, byte in enumerate(before):
            try:
                if self._memory.read(start + offset, 1) != bytes([byte]):
                    self._memory.write(start + offset, bytes([byte]))
            except MemoryFault:
                continue

    def disarm(self, addresses: Iterable[VirtAddr], *, joined: bool) -> None:
        """Put the original bytes back. Memory that is gone has nothing to be put back."""
        todo = sorted(address for address in addresses if address in self._armed)
        for run in _runs(todo, _JOIN if joined else 1):
            start, end = run[0], run[-1] + 1
            try:
                data = bytearray(self._memory.read(start, end - start))
                for address in run:
                    # Only what still is our trap: the program may have put new code there.
                    if data[address - start] == self._trap[0]:
                        data[address - start] = self._armed[address]
                self._memory.write(start, bytes(data))
            except MemoryFault:
                if len(run) > 1:
                    for one in run:
                        self.disarm([one], joined=False)
            for address in run:
                self._armed.pop(address, None)
            if self.journal is not None:
                self.journal.strike(run)
        self._note_change()

    def abandon(self) -> None:
        """The process has exec'ed. Its memory is gone, and the traps with it, unless what we
        took for the old program's was the new one's already: then they are taken out."""
        first = next(iter(self._armed), None)
        if first is not None and self._memory.by_file and self._memory.read_some(first, 1):
            self.disarm(self.addresses(), joined=False)

    def forget(self, addresses: Sequence[VirtAddr]) -> None:
        """These were unmapped: they hold no trap any more."""
        for address in addresses:
            self._armed.pop(address, None)
            self._originals.pop(address, None)
        if self.journal is not None:
            self.journal.strike(addresses)
        self._sorted = None

    def lost(self, addresses: Iterable[VirtAddr]) -> list[VirtAddr]:
        """Those where memory can be read and shows no trap, though one was written."""
        return [
            address
            for address in addresses
            if self._memory.read_some(address, 1) not in (b"", self._trap)
        ]

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes as the program's own code has them; raises `MemoryFault`."""
        return self._mask(address, self._memory.read(address, size))

    def read_some(self, address: int, size: int) -> bytes:
        """As `read`, but as many bytes as are mapped."""
        return self._mask(address, self._memory.read_some(address, size))

    def read_each(self, places: Iterable[tuple[int, int]]) -> dict[int, bytes]:
        """As `read_some`, of many (address, size) at once: places that lie close are one read."""
        sizes = dict(places)
        found: dict[int, bytes] = {}
        for run in _runs(sorted(sizes), _JOIN):
            start = run[0]
            data = self.read_some(start, max(address + sizes[address] for address in run) - start)
            for address in run:
                at = address - start
                found[address] = data[at : at + sizes[address]]
        return found

    def write(self, address: int, data: bytes) -> None:
        """Write program memory and keep our traps: under one, what is to be put back changes."""
        shown = bytearray(data)
        traps = self._within(address, len(data))
        for trap in traps:
            shown[trap - address] = self._trap[0]
        self._memory.write(address, bytes(shown))
        for trap in traps:
            self._armed[trap] = self._originals[trap] = data[trap - address]
        if self.journal is not None:
            self.journal.note((trap, self._armed[trap]) for trap in traps)
        for former in [a for a in self._originals if address <= a < address + len(data)]:
            if former not in self._armed:
                del self._originals[former]

    def _mask(self, address: int, data: bytes) -> bytes:
        hidden = self._within(address, len(data))
        if not hidden:
            return data
        shown = bytearray(data)
        for trap in hidden:
            if shown[trap - address] == self._trap[0]:
                shown[trap - address] = self._armed[trap]
        return bytes(shown)

    def _within(self, address: int, size: int) -> list[int]:
        if self._sorted is None:
            self._sorted = sorted(self._armed)
        low = bisect.bisect_left(self._sorted, address)
        high = bisect.bisect_left(self._sorted, address + size, low)
        return self._sorted[low:high]


def _runs(addresses: list[_Address], join: int) -> list[list[_Address]]:
    runs: list[list[_Address]] = []
    for address in addresses:
        if runs and address - runs[-1][-1] < join and join > 1:
            runs[-1].append(address)
        else:
            runs.append([address])
    return runs
