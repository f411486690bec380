"""What the engine knows of one site, and of one address space beyond its threads."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.engine.safety_net import SafetyNet
from ptrace_uprobes.fetching.fetcher import Fetcher
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.linux.ptrace_calls import UserRegs, is_int3
from ptrace_uprobes.probe import Probe, SiteCount
from ptrace_uprobes.sites import TrapTable
from ptrace_uprobes.ssol.plan import Mechanism, Plan
from ptrace_uprobes.ssol.scratch import SlotArea
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.tracee import AddressSpace
from ptrace_uprobes.unwind import LoadedModules, Stack, Unwinder

__all__ = ["PlacedSite", "Reentry", "SpaceRecord", "StepInProgress"]


class PlacedSite:
    """A trap, how its displaced instruction is executed, and whom its hits are for.

    Shared by the address spaces of a fork, since their memory is a copy.
    """

    __slots__ = (
        "address",
        "all_counts",
        "certain",
        "counts",
        "entering",
        "entering_probes",
        "fetchers",
        "in_go",
        "internal",
        "is_wide",
        "plan",
        "popped",
        "resume_at",
        "resume_c",
        "returns_of",
        "slot",
        "sole",
        "watchers",
    )

    def __init__(self, address: VirtAddr, plan: Plan, architecture: Architecture = X86_64) -> None:
        self.address = address
        self.is_wide = architecture.word_size == 8
        """It is planned for 64-bit code."""
        self.plan = plan
        self.slot: VirtAddr | None = None
        self.resume_at = 0
        """Where a hit goes on when that is the same each time (boost), else 0."""
        self.resume_c = ctypes.c_ulong(0)
        """The same, ready to be passed to ptrace."""
        self.all_counts: list[SiteCount] = []
        """Of every probe that has this site, in the order in which they were added."""
        self.counts: tuple[SiteCount, ...] = ()
        """Of those that are enabled, but for return probes."""
        self.entering: tuple[SiteCount, ...] = ()
        """Of return probes that are enabled: each hit here begins a call that they follow."""
        self.entering_probes: frozenset[Probe] = frozenset()
        self.returns_of: set[Probe] = set()
        """Return probes whose functions return to here."""
        self.watchers: tuple[SiteCount, ...] = ()
        """Of probes that the engine has added for itself."""
        self.fetchers: dict[SiteCount, Fetcher] = {}
        """What is to be recorded, and which hits are wanted at all."""
        self.popped = 0
        """Bytes that the function's return takes from the stack beyond its return address."""
        self.in_go = False
        """In code of the Go compiler's."""
        self.sole: SiteCount | None = None
        """Set when a hit needs counting once and nothing else: the fastest path."""
        self.internal: str | None = None
        """What the engine itself watches here, for instance the dynamic linker."""
        # RIP one past the trap is inside a longer instruction, where no other SIGTRAP finds it.
        self.certain = len(plan.code) > 1

    def set_slot(self, slot: VirtAddr) -> None:
        self.slot = slot
        if self.plan.mechanism is Mechanism.BOOST:
            self.resume_at = slot
            self.resume_c = ctypes.c_ulong(slot)

    def has_trapped(self, tid: int) -> bool:
        """Whether it is this trap that a thread has stopped for, one byte behind it by SIGTRAP."""
        return self.certain or is_int3(tid)

    def add(self, count: SiteCount) -> None:
        """One more probe has this site."""
        if count not in self.all_counts:
            self.all_counts.append(count)
        self.update()

    def update(self) -> None:
        """Take note that a probe was enabled, disabled, removed, or got a handler."""
        self.all_counts = [count for count in self.all_counts if not count.probe.removed]
        enabled = [count for count in self.all_counts if count.probe.enabled]
        self.watchers = tuple(count for count in enabled if count.probe.hidden)
        self.entering = tuple(count for count in enabled if count.probe.is_return)
        self.entering_probes = frozenset(count.probe for count in self.entering)
        self.counts = tuple(
            count for count in enabled if not (count.probe.is_return or count.probe.hidden)
        )
        self.returns_of = {
            probe for probe in self.returns_of if probe.enabled and not probe.removed
        }
        simple = (
            len(self.counts) == 1
            and not (self.in_go or self.entering or self.returns_of or self.watchers)
            and self.counts[0].probe.handler is None
            and self.counts[0] not in self.fetchers
            and self.resume_at != 0
            and self.internal is None
        )
        self.sole = self.counts[0] if simple else None

    def abandon(self) -> None:
        """Nobody is to have it any more."""
        self.internal = None
        self.all_counts = []
        self.returns_of = set()
        self.update()

    @property
    def wanted(self) -> bool:
        return bool(
            self.counts
            or self.entering
            or self.returns_of
            or self.watchers
            or self.internal is not None
        )


@dataclass(slots=True)
class Reentry:
    """A signal's handler runs before the displaced instruction did: when the thread comes back
    to the site with these registers, that is the same execution and no new hit."""

    placed: PlacedSite
    registers: bytes
    rsp: int


@dataclass(slots=True)
class StepInProgress:
    """A thread that is being single-stepped in a slot."""

    placed: PlacedSite
    scratch: tuple[str, int] | None
    """A register that was borrowed, and its value."""
    held: tuple[int, bytearray] | None = None
    """A signal that came before the step, and its siginfo: delivered after it."""
    mask: int | None = None
    """The thread's signal mask, put back after the step."""


@dataclass(slots=True)
class SpaceRecord:
    """`AddressSpace.extra`: traps, slots, modules, and what is still to come."""

    space: AddressSpace
    traps: TrapTable
    slots: SlotArea
    retired: dict[int, PlacedSite] = field(default_factory=dict)
    """Sites whose trap was taken out; one that a thread had run into may still be reported."""
    modules: list[Module] = field(default_factory=list)
    mappings: list[Mapping] = field(default_factory=list)
    """In the order of addresses."""
    planted: set[Probe] = field(default_factory=set)
    """Probes that have a place here."""
    unloadable: set[Probe] = field(default_factory=set)
    """Those of them that have one in a library, which dlclose may unmap."""
    starting: bool = False
    """The dynamic linker has not finished loading the program."""
    deferred: bool = False
    """IFUNCs were met whose resolvers could not be run yet."""
    look_due: bool = False
    """What is mapped has changed while threads were being stopped; it is to be looked at."""
    relocated: bool = True
    """IFUNC resolvers may be run."""
    rendezvous: VirtAddr | None = None
    r_debug: VirtAddr | None = None
    goroutine_calls: dict[Any, list[Any]] = field(default_factory=dict)
    """As `Thread.active_calls`, of goroutines, which are not bound to a thread."""
    goroutine_reentries: list[Reentry] = field(default_factory=list)
    """As `Thread.reentries`, of goroutines."""
    semaphores: dict[int, int] = field(default_factory=dict)
    """What we have added to counters of the program, by their addresses."""
    other_modes: dict[int, PlacedSite] = field(default_factory=dict)
    """By address: how the bytes at a site are executed in the mode that the program has not."""
    text_relocated: list[Module] = field(default_factory=list)
    """Modules with text relocations, which have been made."""
    no_landings: dict[int, str] = field(default_factory=dict)
    """Return addresses that cannot hold a trap, and why."""
    reaches: dict[tuple[int, int], Any] = field(default_factory=dict)
    """What `flow.reach_by_jumps` has found out."""
    unwinder: Unwinder | None = None
    no_mmap: str | None = None
    """Why no memory can be mapped into it, once that is known."""
    net: SafetyNet | None = None
    """What keeps the program alive should we be killed."""
    no_net: str | None = None
    """Why it has none, once that is known."""

    def sites(self) -> dict[int, PlacedSite]:
        placed: dict[int, PlacedSite] = self.space.placed
        return placed

    def key(self, address: int) -> int:
        """What `sites` has a site under: the RIP that a thread stops with there."""
        return address + self.space.architecture.breakpoint_pc_offset

    def existing(self, address: int) -> PlacedSite | None:
        """The site at an address, also one whose trap was taken out."""
        key = self.key(address)
        return self.sites().get(key) or self.retired.get(key)

    def module_at(self, address: int) -> Module | None:
        for module in self.modules:
            if module.start <= address < module.end:
                return module
        return None

    def mapping_at(self, address: int) -> Mapping | None:
        at = bisect_right(self.mappings, address, key=_start_of) - 1
        mapping = self.mappings[at] if at >= 0 else None
        return mapping if mapping is not None and mapping.contains(address) else None

    def stack(self, registers: UserRegs, limit: int) -> Stack:
        """The user stack of a thread that stands in the program with these registers."""
        return self._the_unwinder().walk(registers, limit)

    def frame_ends(self, registers: UserRegs, limit: int) -> list[int]:
        """Where the frames of that stack end, innermost first."""
        return self._the_unwinder().frame_ends(registers, limit)

    def _the_unwinder(self) -> Unwinder:
        if self.unwinder is None:
            loaded = LoadedModules(self.module_at, self._any_tid, self.traps.read)
            self.unwinder = Unwinder(
                loaded.module_at, self.traps.read_some, self.space.architecture
            )
        return self.unwinder

    def _any_tid(self) -> int | None:
        thread = self.space.any_thread()
        return None if thread is None else thread.tid

    def name_of(self, address: int) -> str:
        """A code address in words: `malloc+0x12`, or `libc.so.6+0x9a12b`, or the number."""
        slot = self.slots.at(address)
        if slot is not None:
            address = slot.site
        module = self.module_at(address)
        if module is None:
            return f"{address:#x}"
        found = module.image.symbol_at(module.to_elf(VirtAddr(address)))
        if found is None:
            return f"{module.path.rpartition('/')[2]}+{address - module.bias:#x}"
        symbol, offset = found
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def table_pairs(self, placed: PlacedSite) -> list[tuple[int, int]]:
        """Where a thread that has run into the trap stands, and where it can go on without us.

        Without a slot that can be run through it is sent to the site again and again, until the
        guardian has put the instruction back. So is one in the mode that the slot is not for.
        """
        slot = placed.slot if placed.plan.scratch is None else None
        reported = placed.address + self.space.architecture.breakpoint_pc_offset
        pairs: list[tuple[int, int]] = [(reported, placed.address if slot is None else slot)]
        whole = self.slots.by_site.get(placed.address)
        if slot is not None and whole is not None and whole.other_mode is not None:
            pairs.append((whole.other_mode, placed.address))
        return pairs

    def write(self, address: int, data: bytes) -> None:
        """Write program memory for a user, traps kept; refuses displaced instructions."""
        for site, placed in [(p.address, p) for p in self.sites().values()]:
            if site < address + len(data) and address < site + len(placed.plan.code):
                raise ValueError(
                    f"cannot write {address:#x}: the instruction at {site:#x} is under a probe"
                )
        self.traps.write(address, data)


def _start_of(mapping: Mapping) -> int:
    return mapping.start


REGISTERS_THAT_TELL = tuple(
    name
    for name, _ in UserRegs._fields_
    if name not in ("orig_rax", "rip", "cs", "ss", "ds", "es", "fs", "gs")
)
"""What sigreturn puts back: equal values mean that an interrupted execution goes on."""
