"""From a probe's SPEC to traps in an address space: resolve, plan, make slots, write traps.

Slots are written first and traps last, so that there is no moment at which a thread could
run into a trap whose slot is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.engine.callee_pops import bytes_popped
from ptrace_uprobes.engine.collector import without_collector
from ptrace_uprobes.engine.marked import definition_at, fetchargs_at, marker_at
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.preparing import Prepared, Preparer
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.engine.semaphores import sync_semaphores
from ptrace_uprobes.engine.state import EngineState, record_of
from ptrace_uprobes.engine.unrelocated import may_still_change
from ptrace_uprobes.errors import (
    BadAddress,
    BadFilter,
    BadSpec,
    InstructionRefused,
    NoSuchProcess,
    NotPermitted,
    UprobesError,
)
from ptrace_uprobes.fetching.fetcher import Fetcher, compile_fetcher
from ptrace_uprobes.fetching.layout import Layout
from ptrace_uprobes.linux.maps import read_maps
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.probe import Probe, SiteCount
from ptrace_uprobes.ssol.plan import Mechanism, Plan, plan
from ptrace_uprobes.symbols.modules import Module, modules_of
from ptrace_uprobes.symbols.resolve import Place
from ptrace_uprobes.tracee import AddressSpace

__all__ = ["PlannedSite", "Planter"]


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
    file_offset: int | None
    definition: Definition
    """The probe's, as it is here: with the arguments and the semaphore of a USDT marker."""


class Planter:
    """Plants probes in address spaces and takes them out."""

    __slots__ = ("_preparer", "_state", "boundaries", "mechanisms", "problems", "refused", "slots")

    def __init__(self, state: EngineState, regions: Regions) -> None:
        self._state = state
        self._preparer = Preparer(state, regions)
        self.boundaries = self._preparer.boundaries
        self.slots = self._preparer.slots
        self.problems: dict[Probe, UprobesError] = {}
        """Why a probe that was looked for could not be planted."""
        self.mechanisms: dict[str, int] = {}
        """How many sites each mechanism has been planned for."""
        self.refused: list[PlannedSite] = []
        """Places of globs and late libraries that got no trap; a lone place raises instead."""

    # -- what is mapped

    def look_again(self, space: AddressSpace) -> list[Module]:
        """Read the mappings anew and drop what lay in modules that are gone; gives the new.

        Raises `TraceeGone` if the process is ending.
        """
        record = record_of(space)
        thread = space.any_thread()
        if thread is None:
            raise TraceeGone(record.space.memory.tid)
        # A thread's number serves as well as the process's, and is better where the leader
        # has exited before the others: a zombie shows no mappings.
        try:
            mappings = read_maps(thread.tid)
        except NoSuchProcess:
            mappings = []
        except NotPermitted as error:
            if not record.mappings:
                raise
            # It has made itself undumpable since: what is known of it stays.
            self._state.warn_once(f"{error}; what it loads from now on is not seen")
            return []
        if not mappings:
            raise TraceeGone(thread.tid)  # it has given its memory back
        record.mappings = mappings
        modules = modules_of(thread.tid, record.mappings, record.traps.read)
        # Not by its end: the dynamic linker maps a library piece by piece.
        here = {module.key for module in modules}
        gone = [module for module in record.modules if module.key not in here]
        known = {module.key for module in record.modules}
        record.modules = modules
        self.boundaries.forget()
        record.no_landings.clear()
        record.reaches.clear()
        record.unwinder = None
        if gone:
            record.planted.clear()
            record.other_modes.clear()
            record.text_relocated.clear()
        for module in gone:
            self._drop(record, module.start, module.end)
        return [module for module in modules if module.key not in known]

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
        if only is not None and not only:
            return
        record = record_of(space)
        self._place(self._preparer.prepare(record, probes, strict=strict, only=only))

    def prepare(self, space: AddressSpace, probes: Sequence[Probe]) -> Prepared | None:
        """All of `plant` that takes long, to be done while the program runs; None if that showed
        a problem, which may be one of that moment."""
        try:
            return self._preparer.prepare(record_of(space), probes, strict=True)
        except UprobesError:
            return None

    def plant_prepared(
        self, space: AddressSpace, probes: Sequence[Probe], prepared: Prepared | None
    ) -> None:
        """`plant`, strictly, what was prepared, or anew if it is not so any more.

        The program stands still now, and its modules have been looked at.
        """
        record = record_of(space)
        if prepared is not None and prepared.record is record:
            if prepared.is_current():
                self._place(prepared)
                return
            record.slots.forget_sites(list(prepared.fresh))
        self.plant(space, probes, strict=True)

    @without_collector()
    def _place(self, prepared: Prepared) -> None:
        record, fresh, strict = prepared.record, prepared.fresh, prepared.strict
        self.problems.update(prepared.problems)
        for remark in prepared.remarks:
            self._state.warn_once(remark)
        if not record.space.processes:
            return  # it has exec'ed meanwhile, and this is nobody's memory any more
        touched: dict[int, PlacedSite] = {}
        for probe, place, address in prepared.wanted:
            placed = record.existing(address) or fresh.get(address)
            if placed is None:
                continue
            if not self._can_fetch(record, probe, place, placed, strict=strict):
                continue
            if placed.plan.mechanism is Mechanism.REFUSE:
                self._refuse(probe, place, address, placed.plan, strict=strict)
                fresh.pop(address, None)
                continue
            record.planted.add(probe)
            if not place.module.is_main:
                record.unloadable.add(probe)
            self._join(record, probe, place, placed)
            touched[address] = placed
            if fresh.pop(address, None) is not None:
                record.sites()[record.key(address)] = placed
                if probe.hidden:
                    continue
                name = placed.plan.mechanism.value
                self.mechanisms[name] = self.mechanisms.get(name, 0) + 1
        self.arm(record, [placed for placed in touched.values() if placed.wanted])
        self.sync_semaphores(record)

    def plant_internal(self, record: SpaceRecord, address: VirtAddr, purpose: str) -> bool:
        """A trap for the engine itself; False if the instruction there cannot have one."""
        placed = record.existing(address)
        if placed is None:
            module = record.module_at(address)
            try:
                if module is not None:
                    self.boundaries.check(record, module, address)
            except BadAddress:
                return False  # a symbol that lies
            code = record.traps.read_some(address, record.space.architecture.max_instruction_size)
            architecture = record.space.architecture
            placed = PlacedSite(address, plan(code, address, architecture), architecture)
            self.slots.make(record, [placed])
            if placed.plan.mechanism is Mechanism.REFUSE or not record.space.processes:
                return False  # no trap can be there, or it has exec'ed meanwhile
            if may_still_change(record, address, len(placed.plan.code)):
                return False
            record.sites()[record.key(address)] = placed
        placed.internal = purpose
        placed.update()
        self.arm(record, [placed])
        return True

    def _all(self, record: SpaceRecord) -> list[PlacedSite]:
        return [*record.sites().values(), *record.retired.values()]

    def _join(self, record: SpaceRecord, probe: Probe, place: Place, placed: PlacedSite) -> None:
        label, module = place.label, place.module
        key = (module.path, label)
        count = probe.places.get(key)
        if count is None:
            count = SiteCount(probe, label, placed.address, module.path)
            probe.places[key] = count
        probe.pending = False
        if probe.fetches:
            placed.fetchers[count] = self._fetcher(record, probe, place, placed.address)
        if place.marker is not None:
            count.markers[place.marker.address] = place.marker
        placed.in_go = module.image.is_go
        if probe.is_return:
            placed.popped = bytes_popped(record, placed.address)
        placed.add(count)

    def _can_fetch(
        self, record: SpaceRecord, probe: Probe, place: Place, placed: PlacedSite, *, strict: bool
    ) -> bool:
        """Whether programs of this architecture have what the probe is to record."""
        if not probe.fetches:
            return True
        try:
            self._fetcher(record, probe, place, placed.address)
        except (BadSpec, BadFilter) as error:
            if strict:
                raise
            self.problems[probe] = error
            self._state.warn_once(f"no trap in {place.module.path}: {error}")
            return False
        return True

    def _fetcher(
        self, record: SpaceRecord, probe: Probe, place: Place, address: VirtAddr
    ) -> Fetcher:
        offset = self._file_offset(place.module, address)
        return compile_fetcher(
            fetchargs_at(probe.definition, place.module, place.marker),
            probe.condition,
            is_return=probe.is_return,
            # As the kernel reckons (`translate_user_vaddr`): @+OFFSET is as far from the probe
            # in memory as in the file, whatever segments lie between them.
            layout=Layout(
                file_base=None if offset is None else address - offset,
                architecture=record.space.architecture,
            ),
            filter_text=probe.filter_text,
        )

    def _refuse(
        self, probe: Probe, place: Place, address: VirtAddr, refused: Plan, *, strict: bool
    ) -> None:
        if probe.hidden:
            return
        why = refused.reason or "it cannot be executed elsewhere"
        text = refused.instruction.text if refused.instruction else refused.code.hex(" ")
        if strict and not probe.definition.place.is_glob:
            raise InstructionRefused(probe.spec, address, text, why)
        probe.pending = False
        self.refused.append(
            PlannedSite(
                probe,
                address,
                place.label,
                place.module.path,
                refused,
                None,
                why,
                self._file_offset(place.module, address),
                definition_at(probe.definition, place.module, place.marker),
            )
        )
        if not probe.definition.place.is_glob:
            self._state.warn_once(f"{probe.spec}: no trap at {address:#x} ({text}): {why}")

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
            key = record.key(placed.address)
            record.retired.pop(key, None)
            record.sites()[key] = placed
        if new:
            self._state.guard.cover(record)
        codes = record.traps.read_each((one.address, len(one.plan.code)) for one in new)
        new = [one for one in new if self._is_as_planned(record, one, codes[one.address])]
        fixed, writable = self._by_writability(record, new)
        failed = record.traps.arm(fixed, joined=True) + record.traps.arm(writable, joined=False)
        for address in failed:
            placed_or_none = record.sites().pop(record.key(address), None)
            # Where not even a byte can be read, the process is ending: nothing is missed.
            if placed_or_none is not None and record.traps.read_some(address, 1):
                for count in placed_or_none.all_counts:
                    if count.probe.hidden:
                        continue
                    self._state.warn_once(
                        f"{count.probe.spec}: the memory at {address:#x} cannot be written"
                    )

    def write_again(self, record: SpaceRecord) -> None:
        """Write the traps in libraries that have been unloaded and loaded anew, at the same place
        and without our notice: theirs went with the old mapping."""
        libraries = [module for module in record.modules if not module.is_main]
        lost = record.traps.lost(
            address
            for address in record.traps.addresses()
            if any(module.contains(address) for module in libraries)
        )
        record.traps.forget(lost)
        sites = record.sites()
        again = [sites[key] for a in lost if (key := record.key(a)) in sites]
        self.arm(record, [placed for placed in again if placed.wanted])

    def _is_as_planned(self, record: SpaceRecord, placed: PlacedSite, now: bytes) -> bool:
        """Whether the instruction still is what the slot has a copy of; if not, the site is given
        up. A probe that is enabled again may have slept for long."""
        code = placed.plan.code
        if now == code:
            return True
        record.sites().pop(record.key(placed.address), None)
        record.slots.forget_sites([placed.address])
        for count in placed.all_counts if now else ():  # else it is ending
            if not count.probe.hidden:
                self._state.warn_once(
                    f"{count.probe.spec}: no trap at {placed.address:#x}: the instruction there "
                    f"has changed, from {code.hex(' ')} to {now.hex(' ')}"
                )
        return False

    def go_live(self) -> None:
        """Write the traps of every probe that was added so far; `EngineState.live` is set."""
        for space in self._state.spaces():
            record = record_of(space)
            self.arm(record, [p for p in self._all(record) if p.wanted])
            self.sync_semaphores(record)

    def sync_semaphores(self, record: SpaceRecord) -> None:
        """Have each semaphore count the sites that have it, as the kernel's `ref_ctr` does."""
        if record.semaphores or self._state.has_semaphores:
            sync_semaphores(record, self._state.live, self._state.warn_once)

    def disarm_unwanted(self, record: SpaceRecord) -> None:
        """Take out the traps that no enabled probe wants any more."""
        idle = [placed for placed in record.sites().values() if not placed.wanted]
        for placed in idle:
            key = record.key(placed.address)
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
                if probe in placed.returns_of or any(
                    count.probe is probe for count in placed.all_counts
                ):
                    placed.update()
            self.disarm_unwanted(record)
            self.arm(record, [p for p in record.retired.values() if p.wanted])
            self.sync_semaphores(record)

    @staticmethod
    def _file_offset(module: Module | None, address: VirtAddr) -> int | None:
        if module is None or module.image.identity is None:
            return None
        return module.image.offset_of(module.to_elf(address))

    def explain(self) -> list[PlannedSite]:
        """Every place of every probe, planted or refused."""
        rows = []
        for space in self._state.spaces():
            record = record_of(space)
            for placed in self._all(record):
                module = record.module_at(placed.address)
                rows += [
                    PlannedSite(
                        count.probe,
                        placed.address,
                        count.label,
                        count.module,
                        placed.plan,
                        placed.slot,
                        placed.plan.reason,
                        self._file_offset(module, placed.address),
                        definition_at(
                            count.probe.definition, module, marker_at(count, module, placed.address)
                        ),
                    )
                    for count in placed.all_counts
                    if not count.probe.hidden
                ]
        return [*rows, *self.refused]
