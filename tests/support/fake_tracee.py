"""A tracee that is no process: memory in a dictionary, and threads that nobody traces."""

from __future__ import annotations

import os

from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.linux.memory import ProcessMemory
from ptrace_uprobes.sites import TrapTable
from ptrace_uprobes.ssol.scratch import SlotArea
from ptrace_uprobes.tracee import AddressSpace, Process, Thread

__all__ = ["PAGE", "FakeMemory", "a_record", "a_thread"]

PAGE = 4096


class FakeMemory(ProcessMemory):
    """Pages by their number. As the kernel does, a transfer ends at the first page that refuses
    it, and what came before has been done."""

    def __init__(self, address: int, data: bytes) -> None:
        self.tid = 0
        self.pages: dict[int, bytearray] = {}
        self.read_only: set[int] = set()
        """Numbers of pages that cannot be written, not even by a tracer (a shared mapping)."""
        self.writes: list[tuple[int, int]] = []
        """(address, size) of each write, in order."""
        self.map(address, data)

    def map(self, address: int, data: bytes) -> None:
        """Map the pages that `data` lies in; the rest of them is zero."""
        for number in range(address // PAGE, (address + len(data) - 1) // PAGE + 1):
            self.pages.setdefault(number, bytearray(PAGE))
        for index, byte in enumerate(data):
            self.pages[(address + index) // PAGE][(address + index) % PAGE] = byte

    def unmap(self, number: int) -> None:
        del self.pages[number]

    @property
    def by_file(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def read_some(self, address: int, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            page = self.pages.get((address + len(data)) // PAGE)
            if page is None:
                break
            offset = (address + len(data)) % PAGE
            data += page[offset : offset + size - len(data)]
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        self.writes.append((address, len(data)))
        for index, byte in enumerate(data):
            number, offset = divmod(address + index, PAGE)
            page = self.pages.get(number)
            if page is None or number in self.read_only:
                raise MemoryFault(address + index, len(data) - index)
            page[offset] = byte


def a_record(memory: ProcessMemory) -> SpaceRecord:
    """An address space with this memory, and the engine's record of it."""
    space = AddressSpace(os.getpid(), X86_64)
    space.memory.close()
    space.memory = memory
    record = SpaceRecord(space, TrapTable(memory, X86_64), SlotArea(memory))
    space.extra = record
    return record


def a_thread(record: SpaceRecord, tid: int | None = None) -> Thread:
    """A thread in it, under our own number unless another is given."""
    number = os.getpid() if tid is None else tid
    return Thread(number, Process(number, record.space))
