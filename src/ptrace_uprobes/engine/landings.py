"""Sites at return addresses."""

from __future__ import annotations

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.flow import why_nothing_returns_to
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.planting import Planter
from ptrace_uprobes.linux.maps import read_maps
from ptrace_uprobes.ssol.plan import Mechanism, plan

__all__ = ["Landings"]


class Landings:
    """Finds or makes the site that a probed function returns to."""

    __slots__ = ("_planter",)

    def __init__(self, planter: Planter) -> None:
        self._planter = planter

    def at(self, record: SpaceRecord, address: VirtAddr) -> PlacedSite | str:
        """A site at a return address, not yet armed; why there can be none, if so."""
        placed = record.existing(address)
        if placed is not None:
            return placed
        known = record.no_landings.get(address)
        if known is not None:
            return known
        problem = self._no_landing(record, address)
        if problem is None:
            code = record.traps.read_some(address, record.space.architecture.max_instruction_size)
            architecture = record.space.architecture
            placed = PlacedSite(address, plan(code, address, architecture), architecture)
            module = record.module_at(address)
            placed.in_go = module is not None and module.image.is_go
            self._planter.slots.make(record, [placed])
            if placed.plan.mechanism is not Mechanism.REFUSE:
                record.sites()[record.key(address)] = placed
                return placed
            problem = f"its return address cannot hold a trap: {placed.plan.reason}"
        record.no_landings[address] = problem
        return problem

    def _no_landing(self, record: SpaceRecord, address: VirtAddr) -> str | None:
        mapping = record.mapping_at(address)
        if mapping is None or not mapping.is_executable:
            thread = record.space.any_thread()
            if thread is not None:
                record.mappings = read_maps(thread.tid)
                mapping = record.mapping_at(address)
        if mapping is None or not mapping.is_executable:
            return "what stands where its return address should be is not the address of code"
        if not mapping.is_file and mapping.path != "[vdso]":
            # Generated code is moved and thrown away by its generator, traps and all.
            return "it returns into generated code, which can hold no trap"
        module = record.module_at(address)
        return why_nothing_returns_to(record, module, address, self._planter.boundaries)
