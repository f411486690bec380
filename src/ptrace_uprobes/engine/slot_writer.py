"""Slots for new sites: found or made, filled and written before any trap is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.last_resort import LastResort
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.engine.safety_net import NO_NET
from ptrace_uprobes.errors import MemoryFault, NoThreadToUse, RemoteCallFailed
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.ssol.mode_guard import assemble_guarded, guard_size
from ptrace_uprobes.ssol.plan import (
    Mechanism,
    OutOfReach,
    Plan,
    plan_far,
    plan_without_slot,
)

__all__ = ["SlotWriter"]


class SlotWriter:
    """Gives sites the slots that their plans ask for."""

    __slots__ = ("_regions", "_warn_once")

    def __init__(self, regions: Regions, warn_once: Callable[[str], None]) -> None:
        self._regions = regions
        self._warn_once = warn_once

    def make(self, record: SpaceRecord, fresh: Sequence[PlacedSite]) -> None:
        """Write the slot of each site that needs one; one that gets none is planned without.

        Raises `NoThreadToUse` if one is refused without a slot, and that only for now.
        """
        needy = [p for p in fresh if p.plan.slot_size and p.plan.mechanism is not Mechanism.REFUSE]
        codes: list[tuple[VirtAddr, bytes]] = []
        for placed in needy:
            known = record.slots.by_site.get(placed.address)
            if known is not None:
                placed.set_slot(known.start)
        try:
            self._find_room(record, [p for p in needy if p.slot is None], codes)
            self._find_room_for_net(record, fresh)
        except (NoThreadToUse, TraceeGone):
            with suppress(MemoryFault):
                self._write(
                    record, [p for p in fresh if p.slot is not None], codes
                )  # those that were found are known from now on
            raise
        if record.space.processes:  # else it has exec'ed while room was made
            try:
                self._write(record, fresh, codes)
            except MemoryFault as error:
                if record.space.memory.read_some(error.address, 1):
                    raise
                # It ends, or has exec'ed without our knowing yet.
                raise TraceeGone(record.space.memory.tid) from error

    def _write(
        self,
        record: SpaceRecord,
        fresh: Sequence[PlacedSite],
        codes: list[tuple[VirtAddr, bytes]],
    ) -> None:
        """Slots, and with them the node by which the safety net knows them; it is told last."""
        pairs = [
            pair
            for placed in fresh
            if placed.plan.mechanism is not Mechanism.REFUSE
            for pair in record.table_pairs(placed)
        ]
        net = record.net
        node = None
        if net is not None and pairs:
            node = record.slots.take(net.resort.table_size(len(pairs)))
            following = net.first_node(record.space.memory)
            if following is None:
                node = None  # the memory is gone: it ends, or execs
            elif node is None:
                self._warn_once(NO_NET.format(why="its memory is full"))
            else:
                codes.append((node, net.resort.table_node(following, pairs)))
        record.slots.write(codes)
        if net is not None and node is not None:
            net.add(record.space.memory, node)

    def _find_room_for_net(self, record: SpaceRecord, fresh: Sequence[PlacedSite]) -> None:
        """Sites that need no slot need the safety net, and all of them a place in its list."""
        if not fresh or record.no_net is not None or record.no_mmap is not None:
            return
        size = LastResort.table_size(2 * len(fresh))
        if record.net is None or not record.slots.has_room(size):
            low, high = _home(record, fresh[0].address)
            try:
                self._regions.make_room(record, low, high, size)
            except NoThreadToUse:
                raise
            except (RemoteCallFailed, MemoryFault) as error:
                record.no_mmap = str(error)

    def make_besides(
        self, record: SpaceRecord, placed: PlacedSite, architecture: Architecture
    ) -> None:
        """Write a slot for code of another architecture at a site that has its own slot."""
        if not placed.plan.slot_size or placed.plan.mechanism is Mechanism.REFUSE:
            return
        codes: list[tuple[VirtAddr, bytes]] = []
        for _ in range(2):
            for slot in record.slots.allocate(placed.address, placed.plan.slot_size):
                try:
                    code = placed.plan.assemble(slot)
                except OutOfReach:
                    continue
                record.slots.enter(placed.address, slot, code, is_the_sites=False)
                codes.append((slot, code.code))
                record.slots.write(codes)
                placed.set_slot(slot)
                return
            with suppress(RemoteCallFailed, MemoryFault):
                low, high = _home(record, placed.address)
                self._regions.make_room(record, low, high, placed.plan.slot_size, architecture)
        placed.plan = plan_without_slot(placed.plan.code, placed.address, architecture)

    def _find_room(
        self,
        record: SpaceRecord,
        todo: Sequence[PlacedSite],
        codes: list[tuple[VirtAddr, bytes]],
    ) -> None:
        # Per module, so that a new region is as large as all of its sites will need.
        by_home: dict[tuple[int, int], list[PlacedSite]] = {}
        for placed in todo:
            by_home.setdefault(_home(record, placed.address), []).append(placed)
        for (low, high), group in by_home.items():
            room = sum((_size_of(p.plan) + 15) // 16 * 16 for p in group)
            room += LastResort.table_size(2 * len(todo))
            grown = False
            busy = None
            for placed in group:
                if self._take(record, placed, codes):
                    continue
                if not grown:
                    grown = True
                    try:
                        self._regions.make_room(record, low, high, room)
                    except NoThreadToUse as error:
                        busy = error
                    except (RemoteCallFailed, MemoryFault) as error:
                        record.no_mmap = str(error)
                if not self._take(record, placed, codes):
                    plan = plan_without_slot(
                        placed.plan.code, placed.address, record.space.architecture
                    )
                    if busy is not None and plan.mechanism is Mechanism.REFUSE:
                        record.deferred = True  # the next look at what is mapped tries again
                        raise busy
                    placed.plan = plan

    def _take(
        self, record: SpaceRecord, placed: PlacedSite, codes: list[tuple[VirtAddr, bytes]]
    ) -> bool:
        architecture = record.space.architecture
        for slot in record.slots.allocate(placed.address, _size_of(placed.plan)):
            try:
                code = assemble_guarded(placed.plan, slot, architecture)
            except OutOfReach:
                far = plan_far(placed.plan)
                if far.mechanism is Mechanism.REFUSE:
                    continue
                placed.plan = far
                slot_or_none = next(record.slots.allocate(placed.address, _size_of(far)), None)
                if slot_or_none is None:
                    return False
                slot = slot_or_none
                code = assemble_guarded(far, slot, architecture)
            record.slots.enter(placed.address, slot, code)
            codes.append((slot, code.code))
            placed.set_slot(slot)
            return True
        return False


def _size_of(plan: Plan) -> int:
    return plan.slot_size + guard_size(plan)


def _home(record: SpaceRecord, address: int) -> tuple[int, int]:
    module = record.module_at(address)
    if module is not None:
        return module.start, module.end
    mapping = record.mapping_at(address)
    if mapping is None:
        return address, address + 1
    return mapping.start, mapping.end
