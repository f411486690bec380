"""The first half of planting, in which nothing that the program has is altered: which places a
probe means, what stands there, how it will be executed, and where its slot is.

It takes long, and so is done while the program runs. What it finds may be past by the time that
the traps are written: `Prepared` keeps what that has to be held against, and what there would be
to say, which is said only if it has come to be true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.boundaries import Boundaries
from ptrace_uprobes.engine.collector import without_collector
from ptrace_uprobes.engine.likeness import check_file, check_likeness
from ptrace_uprobes.engine.lost_traps import is_before_padding
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.engine.slot_writer import SlotWriter
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.engine.unrelocated import is_unrelocated
from ptrace_uprobes.errors import (
    BadAddress,
    MemoryFault,
    NoThreadToUse,
    RemoteCallFailed,
    UprobesError,
)
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.probe import Probe
from ptrace_uprobes.ssol.plan import plan
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.symbols.resolve import Place, resolve

__all__ = ["Prepared", "Preparer"]


@dataclass(slots=True)
class Prepared:
    """What `Preparer.prepare` has found, and planned, of some probes in one address space."""

    record: SpaceRecord
    probes: Sequence[Probe]
    strict: bool
    """A lone place that cannot be probed raises instead of being noted."""
    modules: list[tuple[object, ...]]
    """`Module.key` of those that were mapped then."""
    wanted: list[tuple[Probe, Place, VirtAddr]] = field(default_factory=list)
    fresh: dict[VirtAddr, PlacedSite] = field(default_factory=dict)
    """The sites that were not there before."""
    unchanged: set[Image] = field(default_factory=set)
    """Those whose file has been found to be what it was when its symbols were read."""
    problems: dict[Probe, UprobesError] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def is_current(self) -> bool:
        """Whether everything still is as it was found, in a program that stands still and whose
        modules have been looked at anew."""
        record = self.record
        if self.modules != [module.key for module in record.modules]:
            return False
        planned = {address: placed.plan.code for address, placed in self.fresh.items()}
        return planned == record.traps.read_each((a, len(code)) for a, code in planned.items())


class Preparer:
    """Finds and plans what is to be planted."""

    __slots__ = ("_regions", "_state", "boundaries", "slots")

    def __init__(self, state: EngineState, regions: Regions) -> None:
        self._state = state
        self._regions = regions
        self.boundaries = Boundaries()
        self.slots = SlotWriter(regions, state.warn_once)

    @without_collector()
    def prepare(
        self,
        record: SpaceRecord,
        probes: Sequence[Probe],
        *,
        strict: bool,
        only: Sequence[Module] | None = None,
    ) -> Prepared:
        """Find the probes' places, in the modules `only` if given, plan them and write slots.

        Raises what `Planter.plant` does.
        """
        modules = [module.key for module in record.modules]
        prepared = Prepared(record, probes, strict, modules)
        for probe in probes:
            for place in self._places(prepared, probe, only):
                address = self._address_of(prepared, probe, place)
                if address is not None:
                    prepared.wanted.append((probe, place, address))
        fresh = prepared.fresh
        longest = record.space.architecture.max_instruction_size
        missing = [one for one in prepared.wanted if record.existing(one[2]) is None]
        codes = record.traps.read_each((address, longest) for _, _, address in missing)
        for probe, place, address in missing:
            if address not in fresh:
                placed = self._plan_site(prepared, probe, place, address, codes[address])
                if placed is not None:
                    fresh[address] = placed
        self.slots.make(record, list(fresh.values()))
        return prepared

    @staticmethod
    def _places(prepared: Prepared, probe: Probe, only: Sequence[Module] | None) -> list[Place]:
        spec, modules = probe.definition.place, prepared.record.modules
        if probe.removed:
            return []
        try:
            if only is None:
                return resolve(spec, modules)
            main = [module for module in modules if module.is_main]
            if spec.module is None and spec.name is not None and resolve(spec, main):
                return []  # the main program has it, so no library's is meant
            return resolve(spec, only)
        except UprobesError as error:
            if prepared.strict:
                raise
            prepared.problems[probe] = error
            return []

    def _address_of(self, prepared: Prepared, probe: Probe, place: Place) -> VirtAddr | None:
        record = prepared.record
        if is_unrelocated(record, place.module):
            record.deferred = True
            return None
        if not place.is_ifunc:
            return place.address
        if place.symbol is None or not place.module.image.is_resolver(place.symbol.address):
            why = (
                f"{place.label} is said to be an indirect function (IFUNC), but nothing has "
                f"{place.module.name} run its code as a resolver, and so it is not run by us"
            )
            self._cannot(prepared, probe, BadAddress(place.address, why))
            return None
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
        except NoThreadToUse:
            record.deferred = True
            return None
        except (RemoteCallFailed, MemoryFault) as error:
            prepared.remarks.append(f"{probe.spec}: cannot tell where {place.label} leads: {error}")
            return None
        # A resolver that finds no implementation gives 0.
        return VirtAddr(target + place.offset) if target else None

    def _plan_site(
        self, prepared: Prepared, probe: Probe, place: Place, address: VirtAddr, code: bytes
    ) -> PlacedSite | None:
        record = prepared.record
        architecture = record.space.architecture
        mapping = record.mapping_at(address)
        spec = probe.definition.place
        try:
            if place.module.image not in prepared.unchanged:
                check_file(place.module, address)
                prepared.unchanged.add(place.module.image)
            if mapping is not None and mapping.is_executable and not code:
                # The memory is gone: its process ends, or execs.
                raise TraceeGone(record.space.memory.tid)
            if mapping is None or not mapping.is_executable:
                raise BadAddress(address, "it is not in executable memory")
            if not mapping.is_private:
                raise BadAddress(
                    address,
                    "its memory is shared (MAP_SHARED): a trap there would be in "
                    f"{mapping.path or 'other processes'}, and in every program that uses it",
                )
            # What an IFUNC leads to may be in another module.
            if place.module.contains(address):
                self.boundaries.check(record, place.module, address, place.symbol)
        except BadAddress as error:
            # A library that is just being mapped has its headers before its code.
            if prepared.strict and not (record.starting and spec.name is not None):
                raise
            prepared.problems[probe] = error
            return None
        made = plan(code, address, architecture, self._state.options.mechanism)
        if not self._is_like_its_file(prepared, probe, place, address, made.code):
            return None
        placed = PlacedSite(address, made, architecture)
        placed.certain = placed.certain or is_before_padding(code, address)
        return placed

    def _is_like_its_file(
        self, prepared: Prepared, probe: Probe, place: Place, address: VirtAddr, code: bytes
    ) -> bool:
        """Whether what stands in memory is what the user means; says why not, and what differs."""
        own = place.module.contains(address)
        module = place.module if own else prepared.record.module_at(address)
        if module is None:
            return True
        try:
            changed = check_likeness(prepared.record, module, address, code)
        except BadAddress as error:
            self._cannot(prepared, probe, error)
            return False
        if changed is not None and not probe.hidden:
            prepared.remarks.append(f"{probe.spec}: {changed}")
        return True

    @staticmethod
    def _cannot(prepared: Prepared, probe: Probe, error: UprobesError) -> None:
        """A place is no right one: raised for a lone one, said for one of many."""
        if prepared.strict and not probe.definition.place.is_glob:
            raise error
        prepared.problems[probe] = error
        if not probe.hidden:
            prepared.remarks.append(f"{probe.spec}: {error}")
