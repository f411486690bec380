"""Slots: where displaced instructions run, in memory that we map into the tracee.

A slot is written once, before its trap, and never changes or moves while we are attached;
all threads share it, whether they run through it (boost) or are stepped in it. Slots lie
within 2 GiB of their sites, so that a RIP-relative operand needs only its displacement mended.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.linux.memory import ProcessMemory
from ptrace_uprobes.linux.process_info import CLOCK_GRAIN
from ptrace_uprobes.ssol.plan import Fixup, SlotCode

__all__ = [
    "GADGET_RETURN",
    "GADGET_SIZE",
    "Region",
    "Slot",
    "SlotArea",
    "candidate_places",
    "gadget_of",
    "padding_gaps",
    "reach_is_all",
]

PAGE: Final = 4096
NARROW_TOP: Final = 1 << 32
"""32-bit code reaches what is below, also in a 64-bit process."""
REACH: Final = (1 << 31) - (1 << 20)
_ALIGN_SHIFT: Final = 4
_ALIGN: Final = 1 << _ALIGN_SHIFT
_AFTER_CALL: Final = b"\xeb\xfe\xcc\xeb\xfe\xcc"  # jmp .; int3; jmp .; int3
GADGET_RETURN: Final = 4
"""Where, in a gadget, a function that is called returns to."""
GADGET_SIZE: Final = 16 + 320
_FAR: Final = 16 << 20
_LOWEST: Final = 0x10000  # vm.mmap_min_addr
_STACK_AT_LEAST: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Slot:
    """One displaced instruction's place: `[start, end)`, and what each point in it means."""

    start: VirtAddr
    end: VirtAddr
    site: VirtAddr
    fixups: tuple[Fixup, ...]
    other_mode: VirtAddr | None = None
    """RIP, as it is reported, of code of the mode that this slot is not for."""
    guard_size: int = 0

    def fixup(self, rip: int) -> Fixup | None:
        """What a thread that stands at `rip` has done; None inside an instruction."""
        offset = rip - self.start
        for fixup in self.fixups:
            if fixup.offset == offset:
                return fixup
        return None


class Region:
    """A stretch of executable memory that slots are taken from in order."""

    __slots__ = ("end", "mapped", "next", "start")

    def __init__(self, start: VirtAddr, end: VirtAddr, *, mapped: bool) -> None:
        self.start = start
        self.end = end
        self.mapped = mapped
        """Ours to unmap; else the padding at the end of a segment of the program."""
        self.next = start

    def take(self, size: int) -> VirtAddr | None:
        address = -(-self.next // _ALIGN) * _ALIGN
        if address + size > self.end:
            return None
        self.next = VirtAddr(address + size)
        return VirtAddr(address)

    def is_begun_in(self, memory: ProcessMemory, architecture: Architecture = X86_64) -> bool:
        """Whether the memory has this region as `SlotArea.add_region` began it."""
        gadget = gadget_of(architecture)
        return memory.read_some(self.start, len(gadget)) == gadget

    def has_room(self, size: int) -> bool:
        return -(-self.next // _ALIGN) * _ALIGN + size <= self.end

    def reaches(self, site: int) -> bool:
        return abs(self.start - site) < REACH and abs(self.end - site) < REACH


class SlotArea:
    """All slots of one address space."""

    __slots__ = (
        "_architecture",
        "_cells",
        "_changed_at",
        "_codes",
        "_is_complete",
        "_memory",
        "by_site",
        "padding",
        "regions",
    )

    def __init__(self, memory: ProcessMemory, architecture: Architecture = X86_64) -> None:
        self._memory = memory
        self._architecture = architecture
        self._cells: dict[int, Slot] = {}
        self._codes: dict[VirtAddr, bytes] = {}
        self._changed_at = 0.0
        self._is_complete = True
        self.by_site: dict[int, Slot] = {}
        self.regions: list[Region] = []
        self.padding: list[tuple[VirtAddr, bytes]] = []
        """What stood in borrowed padding, to be put back."""

    def copy_for(self, memory: ProcessMemory, forked_at: float) -> SlotArea:
        """The area of a forked child, whose memory is a copy of what this one's was at
        `forked_at` (CLOCK_BOOTTIME, in seconds)."""
        other = SlotArea(memory, self._architecture)
        other._cells = dict(self._cells)
        other._codes = dict(self._codes)
        other._is_complete = self._changed_at < forked_at - CLOCK_GRAIN
        other.by_site = dict(self.by_site)
        for region in self.regions:
            copy = Region(region.start, region.end, mapped=region.mapped)
            copy.next = region.next
            other.regions.append(copy)
        other.padding = list(self.padding)
        return other

    def complete(self) -> None:
        """Write what a forked child may lack, for it began before that was written."""
        if self._is_complete:
            return
        self._is_complete = True
        for region in self.regions:
            self._memory.write(region.start, gadget_of(self._architecture))
        regions = self.regions
        self._write(
            [
                (start, code)
                for start, code in self._codes.items()
                if any(region.start <= start < region.end for region in regions)
            ]
        )

    def keep_mapped(self) -> None:
        """Forget regions that are not there: a fork may have come before they were mapped."""
        if not self._memory.by_file:
            return  # it can be looked at only while it is stopped
        for region in list(self.regions):
            if region.mapped and not self._memory.read_some(region.start, 1):
                self.regions.remove(region)
                self._cells = {
                    cell: slot
                    for cell, slot in self._cells.items()
                    if not region.start <= slot.start < region.end
                }
                self.by_site = {
                    site: slot
                    for site, slot in self.by_site.items()
                    if not region.start <= slot.start < region.end
                }

    def add_region(self, start: VirtAddr, size: int, *, mapped: bool, nonce: bytes = b"") -> Region:
        """Take over executable memory; its first bytes become a system call gadget, and in memory
        of our own the next ones the `nonce`, by which the guardian knows it."""
        region = Region(start, VirtAddr(start + size), mapped=mapped)
        if not mapped:
            self.padding.append((start, self._memory.read(start, size)))
        gadget = gadget_of(self._architecture)
        self._memory.write(start, gadget.ljust(_ALIGN - len(nonce), b"\xcc") + nonce)
        region.next = VirtAddr(start + (GADGET_SIZE if mapped else _ALIGN))
        self.regions.append(region)
        return region

    @property
    def gadget(self) -> VirtAddr | None:
        """The address of a gadget of ours, in memory that is nobody else's."""
        return next((region.start for region in self.regions if region.mapped), None)

    def allocate(self, site: VirtAddr, size: int) -> Iterator[VirtAddr]:
        """Addresses for a slot of `size` bytes, each one taken; stop at the first that serves."""
        for region in reversed(self.regions):
            if site < NARROW_TOP < region.end:
                continue  # 32-bit code could not go there
            if reach_is_all(self._architecture) or region.reaches(site):
                address = region.take(size)
                if address is not None:
                    yield address

    def take(self, size: int) -> VirtAddr | None:
        """Memory of our own for something else than a slot; None if there is not enough."""
        for region in reversed(self.regions):
            address = region.take(size) if region.mapped else None
            if address is not None:
                return address
        return None

    def region_of(self, address: int) -> Region | None:
        return next((r for r in self.regions if r.start <= address < r.end), None)

    def has_room(self, size: int) -> bool:
        """Whether `take` would give as much."""
        return any(region.mapped and region.has_room(size) for region in self.regions)

    def could_hold(self, site: int, size: int) -> bool:
        """Whether slots of so many bytes together, for sites at about `site`, would find room."""
        return size <= sum(
            region.end - region.next
            for region in self.regions
            if reach_is_all(self._architecture) or region.reaches(site)
        )

    def enter(
        self, site: VirtAddr, start: VirtAddr, code: SlotCode, *, is_the_sites: bool = True
    ) -> Slot:
        """Record a slot whose code is about to be written; not `is_the_sites`: one besides it."""
        trap = code.other_mode_offset
        other_mode = None if trap is None else VirtAddr(start + trap)
        end = VirtAddr(start + len(code.code))
        slot = Slot(start, end, site, code.fixups, other_mode, code.guard_size)
        for cell in range(start >> _ALIGN_SHIFT, ((slot.end - 1) >> _ALIGN_SHIFT) + 1):
            self._cells[cell] = slot
        if is_the_sites:
            self.by_site[site] = slot
        self._codes[start] = code.code
        self._changed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        return slot

    def write(self, codes: Sequence[tuple[VirtAddr, bytes]]) -> None:
        """Write many slots' code, neighbours in one go. Only for slots that nobody uses yet."""
        self._write(codes)
        self._changed_at = time.clock_gettime(time.CLOCK_BOOTTIME)

    def _write(self, codes: Sequence[tuple[VirtAddr, bytes]]) -> None:
        ordered = sorted(codes)
        index = 0
        while index < len(ordered):
            start, first = ordered[index]
            data = bytearray(first)
            index += 1
            while index < len(ordered) and 0 <= ordered[index][0] - (start + len(data)) < _ALIGN:
                data += b"\xcc" * (ordered[index][0] - (start + len(data)))
                data += ordered[index][1]
                index += 1
            self._memory.write(start, bytes(data))

    def at(self, rip: int) -> Slot | None:
        """The slot that `rip` lies in."""
        slot = self._cells.get(rip >> _ALIGN_SHIFT)
        return slot if slot is not None and slot.start <= rip < slot.end else None

    def forget_sites(self, sites: Sequence[VirtAddr]) -> None:
        """These were unmapped. Their slots stay, for a thread may still be on its way out."""
        for site in sites:
            self.by_site.pop(site, None)

    def restore_padding(self) -> None:
        """Put the program's own bytes back where slots were borrowed from it."""
        for start, data in self.padding:
            self._memory.write(start, data)
        self.padding.clear()


def gadget_of(architecture: Architecture) -> bytes:
    """For calls run in a thread of the program: a system call, and a jump to itself.

    Should we be killed meanwhile, the thread waits at the jump until the guardian has written the
    way out behind the gadget.
    """
    return architecture.syscall_instruction + _AFTER_CALL


def reach_is_all(architecture: Architecture) -> bool:
    """Whether a relative branch reaches all of the address space: it wraps around in 32 bits."""
    return architecture.word_size == 4


def candidate_places(
    mappings: Sequence[Mapping],
    low: int,
    high: int,
    size: int,
    stack_limit: int | None,
    architecture: Architecture = X86_64,
) -> Iterator[VirtAddr]:
    """Addresses to map `size` bytes at, within reach of `[low, high)`, the best first.

    The kernel places mappings top-down from below the stack's gap (mm/mmap.c), so the best
    places are those it would come to last: above its start, or far from what it fills.
    `stack_limit` is RLIMIT_STACK in bytes, None if unlimited.
    """
    size = -(-size // PAGE) * PAGE
    top = architecture.user_end
    if high <= NARROW_TOP:
        top = min(top, NARROW_TOP)
    holes = list(_holes(mappings, top))
    anywhere = reach_is_all(architecture)

    def fits(start: int) -> bool:
        end = start + size
        near = anywhere or (abs(start - high) < REACH and abs(end - low) < REACH)
        if not near:
            return False
        at = bisect_right(holes, (start, top)) - 1  # holes do not overlap
        return at >= 0 and end <= holes[at][1]

    stack = next((m for m in mappings if m.path == "[stack]"), None)
    if stack is not None and stack_limit is not None:
        below = [m.end for m in mappings if m.end <= stack.start]
        if below:
            start = below[-1] + _FAR
            if start + size + max(stack_limit, _STACK_AT_LEAST) < stack.end and fits(start):
                yield VirtAddr(start)
    if fits(low - _FAR - size):
        # Below a program that is not in the mmap area, its heap grows the other way.
        lower = [m for m in mappings if m.end <= low]
        if not lower:
            yield VirtAddr(low - _FAR - size)
    if not [m for m in mappings if m.end <= low] and low - PAGE - size >= _LOWEST:
        start = max(_LOWEST, low // 2 & -PAGE)
        if fits(start):
            yield VirtAddr(start)
    # The far end of what can be reached, then nearer and nearer.
    for distance in (0x60000000, 0x50000000, 0x40000000, 0x20000000, 0x8000000):
        for start in (low - distance, high + distance):
            start &= -PAGE
            if start >= _LOWEST and fits(start):
                yield VirtAddr(start)
    for a, b in holes:
        for start in (b - size, a):
            if start >= _LOWEST and fits(start):
                yield VirtAddr(start)


def padding_gaps(
    mappings: Sequence[Mapping], used: Sequence[tuple[int, int]]
) -> Iterator[tuple[VirtAddr, int]]:
    """(start, size) of bytes past the end of executable segments, in their last page.

    `used` are the [start, end) address ranges of executable segments as the files state them.
    """
    for start, end in used:
        page_end = -(-end // PAGE) * PAGE
        first = -(-end // _ALIGN) * _ALIGN
        if page_end - first < 2 * _ALIGN:
            continue
        if any(m.is_executable and m.start <= start and m.end >= page_end for m in mappings):
            yield VirtAddr(first), page_end - first


def _holes(mappings: Sequence[Mapping], top: int) -> Iterator[tuple[int, int]]:
    previous = _LOWEST
    for mapping in mappings:
        if mapping.start >= top:
            break  # [vsyscall]
        if mapping.start > previous:
            yield previous, mapping.start
        previous = max(previous, mapping.end)
    if previous < top:
        yield previous, top
