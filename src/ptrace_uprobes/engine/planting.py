"""From a probe's SPEC to traps in an address space: resolve, plan, make slots, write traps.

Slots are written first and traps last, so that there is no moment at which a thread could
run into a trap whose slot is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.decoder import decode
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.engine.state import EngineState, record_of
from ptrace_uprobes.errors import (
    BadAddress,
    InstructionRefused,
    MemoryFault,
    RemoteCallFailed,
    UprobesError,
)
from ptrace_uprobes.linux.maps import read_maps
from ptrace_uprobes.probe import Probe, SiteCount
from ptrace_uprobes.ssol.plan import Mechanism, OutOfReach, Plan, plan, plan_far, plan_without_slot
from ptrace_uprobes.symbols.modules import Module, modules_of
from ptrace_uprobes.symbols.resolve import Place, resolve
from ptrace_uprobes.tracee import AddressSpace

__all__ = ["PlannedSite", "Planter"]

_LONGEST_FUNCTION: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class PlannedSite:
    """What --explain shows of one place of a probe."""

    probe: Probe
    address: VirtAddr
    label: str
    module: str
    plan: Plan
    slot: VirtAddr | None
    reason: str | None


class Planter:
    """Plants probes in address spaces and takes them out."""

    __slots__ = ("_regions", "_starts", "_state", "mechanisms", "problems", "refused")

    def __init__(self, state: EngineState, regions: Regions) -> None:
        self._state = state
        self._regions = regions
        self._starts: dict[tuple[int, int, int], frozenset[int]] = {}
        """Where the instructions of functions begin that were asked about, by address space."""
        self.problems: dict[Probe, UprobesError] = {}
        """Why a probe that was looked for could not be planted."""
        self.mechanisms: dict[str, int] = {}
        """How many sites each mechanism has been planned for."""
        self.refused: list[PlannedSite] = []
        """Places of globs and late libraries that got no trap; a lone place raises instead."""

    # -- what is mapped

    def look_again(self, space: AddressSpace) -> list[Module]:
        """Read the mappings anew and drop what lay in modules that are gone; gives the new."""
        record = record_of(space)
        thread = space.any_thread()
        if thread is None:
            return []
        # A thread's number serves as well as the process's, and is better where the leader
        # has exited before the others: a zombie shows no mappings.
        record.mappings = read_maps(thread.tid)
        modules = modules_of(thread.tid, record.mappings, record.traps.read)
        # Not by its end: the dynamic linker maps a library piece by piece.
        here = {(m.path, m.bias) for m in modules}
        gone = [m for m in record.modules if (m.path, m.bias) not in here]
        known = {(m.path, m.bias) for m in record.modules}
        record.modules = modules
        self._starts.clear()
        if gone:
            record.planted.clear()
        for module in gone:
            self._drop(record, module.start, module.end)
        return [module for module in modules if (module.path, module.bias) not in known]

    def _drop(self, record: SpaceRecord, start: int, end: int) -> None:
        for table in (record.sites(), record.retired):
            for key in [k for k, p in table.items() if start <= p.address < end]:
                address = table.pop(key).address
                record.traps.forget([address])
                record.slots.forget_sites([address])

    # -- planting

    def plant(
        self,
        space: AddressSpace,
        probes: Sequence[Probe],
        *,
        strict: bool,
        only: Sequence[Module] | None = None,
    ) -> None:
        """Plant what of `probes` can be found in `space` now, or in the modules `only` of it.

        `strict`: raise `InstructionRefused` or `BadAddress` for a lone place that cannot be
        probed, instead of noting it.
        """
        record = record_of(space)
        fresh: dict[int, PlacedSite] = {}
        wanted: list[tuple[Probe, Place, VirtAddr]] = []
        for probe in probes:
            for place in self._places(record, probe, only, strict=strict):
                address = self._address_of(record, probe, place)
                if address is not None:
                    wanted.append((probe, place, address))
        for probe, place, address in wanted:
            placed = self._existing(record, address) or fresh.get(address)
            if placed is None:
                placed = self._plan_site(record, probe, place, address, strict=strict)
                if placed is None:
                    continue
                fresh[address] = placed
        self._make_slots(record, list(fresh.values()))
        if not space.processes:
            return  # it has exec'ed meanwhile, and this is nobody's memory any more
        touched: dict[int, PlacedSite] = {}
        for probe, place, address in wanted:
            placed = self._existing(record, address) or fresh.get(address)
            if placed is None:
                continue
            if placed.plan.mechanism is Mechanism.REFUSE:
                self._refuse(probe, place, address, placed.plan, strict=strict)
                fresh.pop(address, None)
                continue
            record.planted.add(probe)
            if not place.module.is_main:
                record.unloadable.add(probe)
            self._join(probe, place.label, place.module, placed)
            touched[address] = placed
            if fresh.pop(address, None) is not None:
                name = placed.plan.mechanism.value
                self.mechanisms[name] = self.mechanisms.get(name, 0) + 1
                record.sites()[self._key(record, address)] = placed
        self.arm(record, [placed for placed in touched.values() if placed.wanted])

    def _places(
        self, record: SpaceRecord, probe: Probe, only: Sequence[Module] | None, *, strict: bool
    ) -> list[Place]:
        spec = probe.definition
        if probe.removed:
            return []
        try:
            if only is None:
                return resolve(spec, record.modules)
            main = [module for module in record.modules if module.is_main]
            if spec.module is None and spec.name is not None and resolve(spec, main):
                return []  # the main program has it, so no library's is meant
            return resolve(spec, only)
        except UprobesError as error:
            if strict:
                raise
            self.problems[probe] = error
            return []

    def plant_internal(self, record: SpaceRecord, address: VirtAddr, purpose: str) -> bool:
        """A trap for the engine itself; False if the instruction there cannot have one."""
        placed = self._existing(record, address)
        if placed is None:
            code = record.traps.read_some(address, record.space.architecture.max_instruction_size)
            placed = PlacedSite(address, plan(code, address, record.space.architecture))
            self._make_slots(record, [placed])
            if placed.plan.mechanism is Mechanism.REFUSE:
                return False
            record.sites()[self._key(record, address)] = placed
        placed.internal = purpose
        placed.update()
        self.arm(record, [placed])
        return True

    def _address_of(self, record: SpaceRecord, probe: Probe, place: Place) -> VirtAddr | None:
        if not place.is_ifunc:
            return place.address
        if not record.relocated:
            # The resolver would read pointers that are not there yet.
            record.deferred = True
            return None

        def past_trap(rip: int) -> int | None:
            placed = record.sites().get(rip)
            return placed.slot if placed is not None else None

        try:
            target = self._regions.call(
                record, lambda remote: remote.function(place.address, past_trap)
            )
        except (RemoteCallFailed, MemoryFault) as error:
            self._state.warn_once(f"{probe.spec}: cannot tell where {place.label} leads: {error}")
            return None
        # A resolver that finds no implementation gives 0.
        return VirtAddr(target + place.offset) if target else None

    @staticmethod
    def _key(record: SpaceRecord, address: int) -> int:
        return address + record.space.architecture.breakpoint_pc_offset

    def _all(self, record: SpaceRecord) -> list[PlacedSite]:
        return [*record.sites().values(), *record.retired.values()]

    def _existing(self, record: SpaceRecord, address: int) -> PlacedSite | None:
        key = self._key(record, address)
        return record.sites().get(key) or record.retired.get(key)

    def _join(self, probe: Probe, label: str, module: Module, placed: PlacedSite) -> None:
        key = (module.path, label)
        count = probe.places.get(key)
        if count is None:
            count = SiteCount(probe, label, placed.address, module.path)
            probe.places[key] = count
        probe.pending = False
        placed.add(count)

    def _plan_site(
        self, record: SpaceRecord, probe: Probe, place: Place, address: VirtAddr, *, strict: bool
    ) -> PlacedSite | None:
        architecture = record.space.architecture
        code = record.traps.read_some(address, architecture.max_instruction_size)
        mapping = record.mapping_at(address)
        try:
            if mapping is None or not mapping.is_executable or not code:
                raise BadAddress(address, "it is not in executable memory")
            if probe.definition.address is not None or probe.definition.offset:
                self._check_boundary(record, place.module, address)
        except BadAddress as error:
            if strict:
                raise
            self.problems[probe] = error
            return None
        return PlacedSite(address, plan(code, address, architecture, self._state.options.mechanism))

    def _check_boundary(self, record: SpaceRecord, module: Module, address: VirtAddr) -> None:
        """Refuse the inside of an instruction, as far as the function's start tells."""
        found = module.image.symbol_at(module.to_elf(address))
        if found is None:
            return
        symbol, offset = found
        if offset == 0 or offset > _LONGEST_FUNCTION:
            return
        start = VirtAddr(address - offset)
        starts = self._instruction_starts(record, start, max(symbol.size, offset + 1))
        if offset in starts:
            return
        before = max(known for known in starts if known < offset)
        after = min((known for known in starts if known > offset), default=None)
        if after is None:
            return  # data, or what the decoder does not know: no telling from there on
        raise BadAddress(
            address,
            f"it is inside the instruction at {symbol.name}+{before:#x}; "
            f"the next one starts at {symbol.name}+{after:#x}",
        )

    def _instruction_starts(
        self, record: SpaceRecord, start: VirtAddr, size: int
    ) -> frozenset[int]:
        """Offsets of the function's instructions, up to one that cannot be decoded."""
        key = (record.space.serial, start, size)
        known = self._starts.get(key)
        if known is not None:
            return known
        architecture = record.space.architecture
        longest = architecture.max_instruction_size
        code = record.traps.read_some(start, min(size, _LONGEST_FUNCTION) + longest)
        starts = [0]
        while starts[-1] < size:
            at = starts[-1]
            instruction = decode(code[at : at + longest], VirtAddr(start + at), architecture)
            if instruction is None:
                break
            starts.append(at + len(instruction.code))
        self._starts[key] = frozenset(starts)
        return self._starts[key]

    def _refuse(
        self, probe: Probe, place: Place, address: VirtAddr, refused: Plan, *, strict: bool
    ) -> None:
        why = refused.reason or "it cannot be executed elsewhere"
        text = refused.instruction.text if refused.instruction else refused.code.hex(" ")
        if strict and not probe.definition.is_glob:
            raise InstructionRefused(probe.spec, address, text, why)
        probe.pending = False
        self.refused.append(
            PlannedSite(probe, address, place.label, place.module.path, refused, None, why)
        )
        if not probe.definition.is_glob:
            self._state.warn_once(f"{probe.spec}: no trap at {address:#x} ({text}): {why}")

    # -- slots

    def _make_slots(self, record: SpaceRecord, fresh: Sequence[PlacedSite]) -> None:
        needy = [p for p in fresh if p.plan.slot_size and p.plan.mechanism is not Mechanism.REFUSE]
        codes: list[tuple[VirtAddr, bytes]] = []
        for placed in needy:
            known = record.slots.by_site.get(placed.address)
            if known is not None:
                placed.set_slot(known.start)
        todo = [placed for placed in needy if placed.slot is None]
        # Per module, so that a new region is as large as all of its sites will need.
        by_home: dict[tuple[int, int], list[PlacedSite]] = {}
        for placed in todo:
            by_home.setdefault(self._home(record, placed.address), []).append(placed)
        for (low, high), group in by_home.items():
            room = sum((p.plan.slot_size + 15) // 16 * 16 for p in group)
            grown = False
            for placed in group:
                if self._take_slot(record, placed, codes):
                    continue
                if not grown:
                    grown = True
                    try:
                        self._regions.make_room(record, low, high, room)
                    except (RemoteCallFailed, MemoryFault) as error:
                        record.no_mmap = str(error)
                if not self._take_slot(record, placed, codes):
                    placed.plan = plan_without_slot(
                        placed.plan.code, placed.address, record.space.architecture
                    )
        record.slots.write(codes)

    def _take_slot(
        self, record: SpaceRecord, placed: PlacedSite, codes: list[tuple[VirtAddr, bytes]]
    ) -> bool:
        for slot in record.slots.allocate(placed.address, placed.plan.slot_size):
            try:
                code = placed.plan.assemble(slot)
            except OutOfReach:
                far = plan_far(placed.plan)
                if far.mechanism is Mechanism.REFUSE:
                    continue
                placed.plan = far
                slot_or_none = next(record.slots.allocate(placed.address, far.slot_size), None)
                if slot_or_none is None:
                    return False
                slot = slot_or_none
                code = far.assemble(slot)
            record.slots.enter(placed.address, slot, code)
            codes.append((slot, code.code))
            placed.set_slot(slot)
            return True
        return False

    @staticmethod
    def _home(record: SpaceRecord, address: int) -> tuple[int, int]:
        module = record.module_at(address)
        if module is not None:
            return module.start, module.end
        mapping = record.mapping_at(address)
        if mapping is None:
            return address, address + 1
        return mapping.start, mapping.end

    # -- traps

    def arm(self, record: SpaceRecord, sites: Sequence[PlacedSite]) -> None:
        """Have each of these sites hold its trap."""
        new = [
            placed
            for placed in sites
            if placed.address not in record.traps
            and (self._state.live or placed.internal is not None)
        ]
        for placed in new:
            key = self._key(record, placed.address)
            record.retired.pop(key, None)
            record.sites()[key] = placed
        fixed, writable = self._by_writability(record, new)
        failed = record.traps.arm(fixed, joined=True) + record.traps.arm(writable, joined=False)
        for address in failed:
            placed_or_none = record.sites().pop(self._key(record, address), None)
            if placed_or_none is not None:
                for count in placed_or_none.all_counts:
                    self._state.warn_once(
                        f"{count.probe.spec}: the memory at {address:#x} cannot be written"
                    )

    def go_live(self) -> None:
        """Write the traps of every probe that was added so far."""
        self._state.live = True
        for space in self._state.spaces():
            record = record_of(space)
            self.arm(record, [p for p in self._all(record) if p.wanted])

    def disarm_unwanted(self, record: SpaceRecord) -> None:
        """Take out the traps that no enabled probe wants any more."""
        idle = [placed for placed in record.sites().values() if not placed.wanted]
        for placed in idle:
            key = self._key(record, placed.address)
            record.retired[key] = placed
            del record.sites()[key]
        fixed, writable = self._by_writability(record, idle)
        record.traps.disarm(fixed, joined=True)
        record.traps.disarm(writable, joined=False)

    @staticmethod
    def _by_writability(
        record: SpaceRecord, sites: Sequence[PlacedSite]
    ) -> tuple[list[VirtAddr], list[VirtAddr]]:
        """Addresses in memory that the program cannot write, and those in memory that it can."""
        fixed: list[VirtAddr] = []
        writable: list[VirtAddr] = []
        for placed in sites:
            mapping = record.mapping_at(placed.address)
            is_writable = mapping is None or mapping.is_writable
            (writable if is_writable else fixed).append(placed.address)
        return fixed, writable

    def refresh_probe(self, probe: Probe) -> None:
        """A probe was enabled, disabled, removed or given a handler."""
        for space in self._state.spaces():
            record = record_of(space)
            for placed in self._all(record):
                if any(count.probe is probe for count in placed.all_counts):
                    placed.update()
            self.disarm_unwanted(record)
            self.arm(record, [p for p in record.retired.values() if p.wanted])

    def explain(self) -> list[PlannedSite]:
        """Every place of every probe, planted or refused."""
        rows = []
        for space in self._state.spaces():
            record = record_of(space)
            for placed in self._all(record):
                rows += [
                    PlannedSite(
                        count.probe,
                        placed.address,
                        count.label,
                        count.module,
                        placed.plan,
                        placed.slot,
                        placed.plan.reason,
                    )
                    for count in placed.all_counts
                ]
        return [*rows, *self.refused]
