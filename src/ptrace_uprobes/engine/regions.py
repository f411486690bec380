"""Memory for slots: mapped into the tracee, or borrowed from the padding of its segments."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.engine.safety_net import NO_NET, OWN_HANDLER, last_resort_for, spread
from ptrace_uprobes.engine.seccomp import FILTERED, is_filtered, may_call
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.errors import MemoryFault, NoSuchProcess, NoThreadToUse, RemoteCallFailed
from ptrace_uprobes.linux.maps import Mapping, read_maps
from ptrace_uprobes.linux.process_info import read_status
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.remote_syscall import Gadget, RemoteCalls, remote_syscalls
from ptrace_uprobes.ssol.scratch import (
    GADGET_RETURN,
    GADGET_SIZE,
    PAGE,
    Region,
    candidate_places,
    gadget_of,
    padding_gaps,
    reach_is_all,
)
from ptrace_uprobes.tracee import AddressSpace, Thread

__all__ = ["Borrow", "Regions"]

Borrow = Callable[[AddressSpace], AbstractContextManager[Thread]]
"""Lends a thread of an address space, stopped where remote calls may be made."""

_PROT_READ_EXEC: Final = 1 | 4
_PROT_READ_WRITE: Final = 1 | 2
_MAP_PRIVATE_ANONYMOUS: Final = 0x02 | 0x20
_MAP_FIXED_NOREPLACE: Final = 0x100000
_SMALLEST: Final = 16 * PAGE
_MOST_DOUBLINGS: Final = 6
"""Each region is twice as large as those before it: who plants one by one does not know how many
are to come."""
_WORKERS_OF_THE_KERNEL: Final = "iou-wrk-", "iou-sqp-"
"""Threads of io_uring's: they block all signals, and execute nothing of the program's
(io_uring/io-wq.c, io_uring/sqpoll.c)."""
_MOST_TRIED: Final = 16
"""Places for one region; another thread of the program may have mapped something there."""


class Regions:
    """Gets and gives back slot regions."""

    __slots__ = ("_borrow", "_state")

    def __init__(self, state: EngineState, borrow: Borrow) -> None:
        self._state = state
        self._borrow = borrow

    def make_room(
        self,
        record: SpaceRecord,
        low: int,
        high: int,
        size: int,
        architecture: Architecture | None = None,
    ) -> bool:
        """A region of at least `size` bytes within reach of `[low, high)`; False if none.

        Within reach of code of `architecture`, which need not be the program's own.
        """
        reaching = architecture or record.space.architecture
        if record.no_mmap is None:
            # A filter may kill the program for a call that it does not make itself.
            record.no_mmap = FILTERED if is_filtered(record.space) else None
            if record.no_mmap is not None:
                self._state.warn_once(NO_NET.format(why=record.no_mmap))
        full = sum(region.mapped and region.reaches(low) for region in record.slots.regions)
        wanted = max(size + PAGE, _SMALLEST << min(full, _MOST_DOUBLINGS))
        if record.no_mmap is None and self._map(record, low, high, wanted, reaching):
            return True
        got = self._take_padding(record, low)
        if record.no_mmap != FILTERED or record.slots.could_hold(low, size):
            return got
        # Not before: should we be killed in such a call, the filter would be in force again.
        return self._map(record, low, high, wanted, reaching, past_filter=True) or got

    def call(self, record: SpaceRecord, work: Callable[[RemoteCalls], int]) -> int:
        """Run `work`, which makes no system call, with a borrowed thread's remote calls."""
        self._state.guard.get_ready(running=not self._state.frozen)
        with self._borrow(record.space) as thread:
            with self._gadget(record, thread) as gadget, self._remote(thread, gadget) as remote:
                return work(remote)

    def _call_kernel(
        self, record: SpaceRecord, work: Callable[[RemoteCalls], int], *, past_filter: bool
    ) -> int:
        """As `call`, for system calls. Raises `RemoteCallFailed` if none may be made."""
        self._state.guard.get_ready(running=not self._state.frozen)
        with (
            self._borrow(record.space) as thread,
            may_call(thread, past_filter=past_filter) as allowed,
        ):
            if not allowed:
                raise RemoteCallFailed(errno.EPERM, FILTERED)
            with self._gadget(record, thread) as gadget, self._remote(thread, gadget) as remote:
                return work(remote)

    def _remote(self, thread: Thread, gadget: Gadget) -> AbstractContextManager[RemoteCalls]:
        state = self._state
        state.settle()
        wait = partial(state.wait_for, bare=True)
        return remote_syscalls(thread, gadget, wait, state.put_back)

    @contextmanager
    def _gadget(
        self, record: SpaceRecord, thread: Thread, *, leaving: bool = False
    ) -> Iterator[Gadget]:
        """Where `thread` can execute system calls; not in memory of ours if that is to go."""
        guardian = self._state.guard.guardian
        ledger = None if guardian is None else guardian.ledger
        own = record.slots.gadget
        architecture = record.space.architecture
        if thread.resume_signal:
            ledger = None  # a signal can be delivered from another kind of stop only
        if own is not None and not leaving:
            returns_to = own + GADGET_RETURN if record.net is not None else 0
            yield Gadget(own, ledger, returns_to)
            return
        place = self._roomy_padding(record) if ledger is not None else None
        if place is not None and ledger is not None:
            self._state.guard.cover(record)
            memory = record.space.memory
            before = memory.read(place, GADGET_SIZE)
            ledger.lend(record.space.serial, place, before)
            memory.write(place, gadget_of(architecture))
            try:
                yield Gadget(place, ledger, 0, before)
            finally:
                with suppress(MemoryFault):  # it has gone, or exec'ed
                    memory.write(place, before)
                ledger.give_back()
            return
        excluded = [(r.start, r.end) for r in record.slots.regions if leaving and r.mapped]
        found = self._find_gadget(record, excluded)
        if found is None:
            raise RemoteCallFailed(errno.ENOSYS, "the program holds no system call instruction")
        yield Gadget(found)

    def _roomy_padding(self, record: SpaceRecord) -> int | None:
        """Bytes of the program's that nobody executes, enough for a gadget."""
        taken = {region.start for region in record.slots.regions if not region.mapped}
        for start, size in padding_gaps(record.mappings, _used(record)):
            if size >= GADGET_SIZE and start not in taken:
                return start
        return None

    def release(self, record: SpaceRecord, thread: Thread) -> None:
        """Give everything back, with every thread out of it; `thread` does the unmapping."""
        slots = record.slots
        slots.restore_padding()
        ours = [
            (region.start, region.end - region.start) for region in slots.regions if region.mapped
        ]
        if not ours:
            slots.regions.clear()
            return
        with may_call(thread, past_filter=True) as allowed:
            if allowed:
                self._unmap(record, thread, ours)
            else:
                # Its own filter, installed since, may kill it for a munmap.
                self._state.warn_once(f"some scratch memory stays in the program: {FILTERED}")

    def _unmap(
        self, record: SpaceRecord, thread: Thread, regions: Sequence[tuple[VirtAddr, int]]
    ) -> None:
        slots = record.slots
        net, record.net = record.net, None
        munmap = record.space.architecture.system_calls.munmap
        if net is not None:
            regions = [*regions, (net.scratch, PAGE)]
        try:
            with (
                self._gadget(record, thread, leaving=True) as gadget,
                self._remote(thread, gadget) as remote,
            ):
                slots.regions.clear()
                if net is not None:
                    net.take_down(remote, record.space.memory)
                for start, size in regions:
                    remote.syscall(munmap, start, size)
        except RemoteCallFailed as error:
            self._state.warn_once(f"scratch memory stays in the program: {error}")

    def _map(
        self,
        record: SpaceRecord,
        low: int,
        high: int,
        size: int,
        reaching: Architecture,
        *,
        past_filter: bool = False,
    ) -> bool:
        size = -(-size // PAGE) * PAGE
        thread = record.space.any_thread()
        limit = stack_limit(thread.process.pid) if thread is not None else None
        resort = last_resort_for(record.space.architecture)
        room = size + PAGE * (resort is not None and record.net is None)
        mappings = self._occupied(record)
        places = list(
            islice(candidate_places(mappings, low, high, room, limit, reaching), _MOST_TRIED)
        )
        if not places:
            return False

        first = record.net is None

        def work(remote: RemoteCalls) -> int:
            if first and any(one.in_vfork for one in record.space.threads()):
                # It is the child that was borrowed, whose action for SIGTRAP is its own.
                raise NoThreadToUse("the program waits for a vfork child")
            for place in places:
                try:
                    if not self._map_at(record, remote, place, size, _PROT_READ_EXEC):
                        continue
                except RemoteCallFailed as error:
                    record.no_mmap = f"mmap failed in the program: {error}"
                    return 0
                region = record.slots.add_region(place, size, mapped=True, nonce=self._state.nonce)
                self._extend_net(record, remote, region)
                return place
            return 0

        try:
            got = bool(self._call_kernel(record, work, past_filter=past_filter))
        except NoThreadToUse:
            raise
        except RemoteCallFailed as error:
            if error.errno != errno.EPERM:
                raise
            record.no_mmap = FILTERED
            return False
        if first and record.net is not None:
            # Not while a thread is borrowed, and has another mask.
            if any(_blocks_traps(one.tid) for one in record.space.threads()):
                self._state.warn_once(NO_NET.format(why="the program blocks SIGTRAP"))
        return got

    @staticmethod
    def _occupied(record: SpaceRecord) -> list[Mapping]:
        """What is mapped, our own memory too."""
        thread = record.space.any_thread()
        if thread is None or not record.slots.regions:
            return record.mappings
        try:
            return read_maps(thread.tid)
        except NoSuchProcess:
            raise TraceeGone(thread.tid) from None

    @staticmethod
    def _map_at(
        record: SpaceRecord, remote: RemoteCalls, place: int, size: int, protection: int
    ) -> bool:
        """Map memory at an address; False if there is something."""
        calls = record.space.architecture.system_calls
        flags = _MAP_PRIVATE_ANONYMOUS | _MAP_FIXED_NOREPLACE
        try:
            got = remote.syscall(calls.mmap, place, size, protection, flags, -1, 0)
        except RemoteCallFailed as error:
            if error.errno == errno.EEXIST:
                return False
            raise
        if got != place:
            remote.syscall(calls.munmap, got, size)  # a kernel before 4.17 knows no NOREPLACE
        return got == place

    def _extend_net(self, record: SpaceRecord, remote: RemoteCalls, region: Region) -> None:
        """Have the last resort know a new area; the first one it is put into."""
        memory = record.space.memory
        net = record.net
        if net is not None:
            node = region.take(len(net.resort.area_node(0, 0, 0)))
            if node is not None:
                following = net.first_node(memory) or 0
                memory.write(node, net.resort.area_node(following, region.start, region.end))
                net.add(memory, node)
            return
        if record.no_net is None:
            record.no_net = self._first_net(record, remote, region)
            if record.no_net is not None:
                self._state.warn_once(NO_NET.format(why=record.no_net))

    def _first_net(self, record: SpaceRecord, remote: RemoteCalls, region: Region) -> str | None:
        """Why there is none, if so."""
        architecture = record.space.architecture
        resort = last_resort_for(architecture)
        thread = record.space.any_thread()
        if resort is None or thread is None:
            return f"it is not written yet for {architecture.name}"
        scratch = region.end
        status = read_status(thread.tid)
        if status.seccomp:
            return FILTERED  # it may kill for a handler's return, rt_sigreturn(2)
        try:
            if not self._map_at(record, remote, scratch, PAGE, _PROT_READ_WRITE):
                return "no memory for it"
            record.net = spread(resort, remote, record.space.memory, region, scratch, status)
        except (RemoteCallFailed, MemoryFault) as error:
            return str(error)
        if record.net is None:
            remote.syscall(architecture.system_calls.munmap, scratch, PAGE)
            return OWN_HANDLER
        return None

    def _take_padding(self, record: SpaceRecord, near: int) -> bool:
        anywhere = reach_is_all(record.space.architecture)
        taken = {region.start for region in record.slots.regions}
        got = False
        for start, size in padding_gaps(record.mappings, _used(record)):
            if start in taken or not (anywhere or abs(start - near) <= 1 << 30):
                continue
            try:
                record.slots.add_region(start, size, mapped=False)
            except MemoryFault:
                continue
            got = True
        return got

    def _find_gadget(self, record: SpaceRecord, excluded: Sequence[tuple[int, int]]) -> int | None:
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


def _blocks_traps(tid: int) -> bool:
    try:
        status = read_status(tid)
    except NoSuchProcess:
        return False
    if status.name.startswith(_WORKERS_OF_THE_KERNEL):
        return False
    return bool(status.blocked >> (signal.SIGTRAP - 1) & 1)


def _used(record: SpaceRecord) -> list[tuple[int, int]]:
    """Where the files say that code is, for `padding_gaps`."""
    return [
        (start, start + segment.memory_size)
        for module in record.modules
        for segment in module.image.segments
        if segment.is_executable
        for start in (module.to_virtual(segment.address),)
    ]


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
