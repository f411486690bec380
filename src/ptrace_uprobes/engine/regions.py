"""Memory for slots: mapped into the tracee, or borrowed from the padding of its segments."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.errors import MemoryFault, RemoteCallFailed
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.linux.process_info import read_status
from ptrace_uprobes.remote_syscall import RemoteCalls, remote_syscalls
from ptrace_uprobes.ssol.scratch import PAGE, candidate_places, padding_gaps, reach_is_all
from ptrace_uprobes.tracee import AddressSpace, Thread

__all__ = ["Borrow", "Regions"]

Borrow = Callable[[AddressSpace], AbstractContextManager[Thread]]
"""Lends a thread of an address space, stopped where remote calls may be made."""

_PROT_READ_EXEC: Final = 1 | 4
_MAP_PRIVATE_ANONYMOUS: Final = 0x02 | 0x20
_MAP_FIXED_NOREPLACE: Final = 0x100000
_SMALLEST: Final = 16 * PAGE


class Regions:
    """Gets and gives back slot regions."""

    __slots__ = ("_borrow", "_state")

    def __init__(self, state: EngineState, borrow: Borrow) -> None:
        self._state = state
        self._borrow = borrow

    def make_room(self, record: SpaceRecord, low: int, high: int, size: int) -> bool:
        """A region of at least `size` bytes within reach of `[low, high)`; False if none."""
        if record.no_mmap is None:
            record.no_mmap = self._why_not(record)
        if record.no_mmap is None and self._map(record, low, high, max(size + PAGE, _SMALLEST)):
            return True
        return self._take_padding(record, low)

    def call(self, record: SpaceRecord, work: Callable[[RemoteCalls], int]) -> int:
        """Run `work` with a borrowed thread's remote calls."""
        with self._borrow(record.space) as thread:
            gadget = self._gadget(record)
            with self._remote(thread, gadget) as remote:
                return work(remote)

    def _remote(self, thread: Thread, gadget: int) -> AbstractContextManager[RemoteCalls]:
        state = self._state
        return remote_syscalls(thread, gadget, state.wait_for, state.put_back)

    def release(self, record: SpaceRecord, thread: Thread) -> None:
        """Give everything back, with every thread out of it; `thread` does the unmapping."""
        slots = record.slots
        slots.restore_padding()
        mapped = [region for region in slots.regions if region.mapped]
        slots.regions.clear()
        if not mapped:
            return
        if read_status(thread.tid).seccomp:
            # Its own filter, installed since, may kill it for a munmap that it does not expect.
            self._state.warn_once(
                "some scratch memory stays in the program: a seccomp filter is in force"
            )
            return
        gadget = self._find_gadget(record, [(r.start, r.end) for r in mapped])
        if gadget is None:
            self._state.warn_once("some scratch memory stays in the program: nothing can unmap it")
            return
        munmap = record.space.architecture.system_calls.munmap
        with self._remote(thread, gadget) as remote:
            for region in mapped:
                try:
                    remote.syscall(munmap, region.start, region.end - region.start)
                except RemoteCallFailed as error:
                    self._state.warn_once(f"scratch memory stays in the program: {error}")

    def _why_not(self, record: SpaceRecord) -> str | None:
        thread = record.space.any_thread()
        if thread is not None and read_status(thread.tid).seccomp:
            # A filter may kill the program for a call that it does not make itself.
            return "a seccomp filter is in force"
        return None

    def _map(self, record: SpaceRecord, low: int, high: int, size: int) -> bool:
        size = -(-size // PAGE) * PAGE
        thread = record.space.any_thread()
        limit = stack_limit(thread.process.pid) if thread is not None else None
        architecture = record.space.architecture
        calls = architecture.system_calls
        places = list(candidate_places(record.mappings, low, high, size, limit, architecture))
        if not places:
            return False

        def work(remote: RemoteCalls) -> int:
            for place in places[:16]:
                try:
                    got = remote.syscall(
                        calls.mmap,
                        place,
                        size,
                        _PROT_READ_EXEC,
                        _MAP_PRIVATE_ANONYMOUS | _MAP_FIXED_NOREPLACE,
                        -1,
                        0,
                    )
                except RemoteCallFailed as error:
                    if error.errno == errno.EEXIST:
                        continue
                    record.no_mmap = f"mmap failed in the program: {error}"
                    return 0
                if got == place:
                    return place
                remote.syscall(calls.munmap, got, size)  # a kernel before 4.17 knows no NOREPLACE
            return 0

        got = self.call(record, work)
        if not got:
            return False
        record.slots.add_region(VirtAddr(got), size, mapped=True)
        return True

    def _take_padding(self, record: SpaceRecord, near: int) -> bool:
        used = []
        anywhere = reach_is_all(record.space.architecture)
        for module in record.modules:
            for segment in module.image.segments:
                if segment.is_executable:
                    start = module.to_virtual(segment.address)
                    used.append((start, start + segment.memory_size))
        taken = {region.start for region in record.slots.regions}
        got = False
        for start, size in padding_gaps(record.mappings, used):
            if start in taken or not (anywhere or abs(start - near) <= 1 << 30):
                continue
            try:
                record.slots.add_region(start, size, mapped=False)
            except MemoryFault:
                continue
            got = True
        return got

    def _gadget(self, record: SpaceRecord) -> int:
        own = record.slots.gadget
        if own is not None:
            return own
        found = self._find_gadget(record, [])
        if found is None:
            raise RemoteCallFailed(errno.ENOSYS, "the program holds no system call instruction")
        return found

    def _find_gadget(self, record: SpaceRecord, excluded: list[tuple[int, int]]) -> int | None:
        def rank(mapping: Mapping) -> int:
            return 0 if mapping.path == "[vdso]" else 1 if "/ld-" in mapping.path else 2

        for mapping in sorted(record.mappings, key=rank):
            if not mapping.is_executable or mapping.path == "[vsyscall]":
                continue
            if any(a <= mapping.start < b for a, b in excluded):
                continue
            start: int = mapping.start
            while start < mapping.end:
                # As it stands, traps and all: an instruction under a trap serves no one.
                data = record.space.memory.read_some(start, min(1 << 20, mapping.end - start))
                if not data:
                    break
                at = data.find(record.space.architecture.syscall_instruction)
                if at >= 0:
                    return start + at
                start += len(data)
        return None


def stack_limit(pid: int) -> int | None:
    """RLIMIT_STACK in bytes (/proc/PID/limits); None if unlimited or not known."""
    try:
        with open(f"/proc/{pid}/limits", encoding="utf-8") as file:
            for line in file:
                if line.startswith("Max stack size"):
                    value = line.split()[3]
                    return int(value) if value.isdigit() else None
    except OSError:
        pass
    return None
