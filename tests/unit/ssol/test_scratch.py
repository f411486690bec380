"""Slots are apart, known by address, near their sites, and written as they should be."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.ssol.scratch import (
    GADGET_SIZE,
    PAGE,
    REACH,
    Region,
    SlotArea,
)
from ptrace_uprobes.ssol.slot import Fixup, SlotCode
from tests.support.fake_tracee import FakeMemory

AREA = VirtAddr(0x7F00_0000_0000)
SITE = VirtAddr(AREA - 0x10_0000)
MMAP_MIN_ADDR = 0x10000
TOP = (1 << 47) - PAGE
"""The end of what a program can map (arch/x86/include/asm/page_64_types.h, TASK_SIZE_MAX)."""


def _area(size: int = 16 * PAGE) -> tuple[SlotArea, FakeMemory]:
    memory = FakeMemory(AREA, bytes(size))
    area = SlotArea(memory)
    area.add_region(AREA, size, mapped=True)
    return area, memory


def _code(size: int, *offsets: int) -> SlotCode:
    fixups = tuple(Fixup(offset, VirtAddr(SITE + offset), offset > 0) for offset in offsets)
    return SlotCode(bytes([0x90]) * size, fixups)  # nop


# -- regions


@given(
    st.integers(AREA, AREA + 100),
    st.integers(0, 2000),
    st.lists(st.integers(1, 90)),
)
def test_places_that_are_taken_are_aligned_inside_and_apart(
    start: int, size: int, wanted: list[int]
) -> None:
    # GIVEN a region, and slots of any size taken from it until it is full
    region = Region(VirtAddr(start), VirtAddr(start + size), mapped=True)
    taken = [(place, n) for n in wanted if (place := region.take(n)) is not None]

    # THEN they lie in it, each on 16 bytes, none over another
    assert all(place % 16 == 0 for place, _ in taken)
    assert all(start <= place and place + n <= start + size for place, n in taken)
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(taken))


def test_a_region_that_is_full_gives_nothing_and_still_serves_a_smaller_slot() -> None:
    region = Region(AREA, VirtAddr(AREA + 32), mapped=True)
    assert region.take(33) is None
    assert region.take(16) == AREA
    assert region.take(17) is None
    assert region.take(16) == AREA + 16
    assert region.take(1) is None


@given(st.integers(-(1 << 32), 1 << 32))
def test_a_region_reaches_a_site_only_if_a_displacement_does(distance: int) -> None:
    region = Region(AREA, VirtAddr(AREA + PAGE), mapped=True)
    site = AREA + distance
    if region.reaches(site):
        # With room for an instruction at either end, and for its operand's own distance.
        assert all(abs(place - site) < (1 << 31) - PAGE for place in (region.start, region.end))
    else:
        assert max(abs(region.start - site), abs(region.end - site)) >= REACH


# -- the area


def test_the_first_bytes_of_a_region_are_a_system_call_gadget() -> None:
    memory = FakeMemory(AREA, bytes(PAGE))
    area = SlotArea(memory)
    before = area.gadget
    region = area.add_region(AREA, PAGE, mapped=True)
    assert (before, area.gadget) == (None, AREA)
    assert memory.read(AREA, 4) == b"\x0f\x05\xeb\xfe"  # syscall; jmp .
    assert region.take(1) == AREA + GADGET_SIZE


def test_a_slot_is_found_from_every_address_in_it_and_from_no_other() -> None:
    area, _ = _area()
    first = area.enter(SITE, VirtAddr(AREA + 16), _code(20, 0, 3))
    second = area.enter(VirtAddr(SITE + 9), VirtAddr(AREA + 48), _code(16, 0))
    assert [area.at(AREA + n) for n in (15, 36, 47, 64)] == [None] * 4
    assert {area.at(AREA + n) for n in range(16, 36)} == {first}
    assert {area.at(AREA + n) for n in range(48, 64)} == {second}
    assert area.by_site == {SITE: first, SITE + 9: second}


def test_a_point_inside_an_instruction_has_no_fixup() -> None:
    area, _ = _area()
    slot = area.enter(SITE, VirtAddr(AREA + 16), _code(20, 0, 3))
    assert slot.fixup(AREA + 16) == Fixup(0, SITE, False)
    assert slot.fixup(AREA + 19) == Fixup(3, VirtAddr(SITE + 3), True)
    assert slot.fixup(AREA + 17) is None
    assert slot.fixup(AREA) is None


def test_the_newest_region_in_reach_is_asked_first() -> None:
    area, memory = _area()
    far = VirtAddr(AREA + (4 << 30))
    near = VirtAddr(AREA + (1 << 20))
    memory.map(far, bytes(PAGE))
    memory.map(near, bytes(PAGE))
    area.add_region(near, PAGE, mapped=True)
    area.add_region(far, PAGE, mapped=True)
    assert list(area.allocate(SITE, 32)) == [near + GADGET_SIZE, AREA + GADGET_SIZE]
    assert list(area.allocate(VirtAddr(far + (1 << 20)), 32)) == [far + GADGET_SIZE]


@given(st.lists(st.integers(1, 60), max_size=40), st.randoms(use_true_random=False))
def test_many_slots_written_at_once_are_each_what_was_asked_for(
    sizes: list[int], order: random.Random
) -> None:
    # GIVEN slots of any sizes, one behind the other
    area, memory = _area()
    codes = []
    for number, size in enumerate(sizes):
        place = next(area.allocate(SITE, size))
        codes.append((place, bytes([number + 1]) * size))
    shuffled = list(codes)
    order.shuffle(shuffled)

    # WHEN they are written in any order
    memory.writes.clear()
    area.write(shuffled)

    # THEN each has its bytes, the gaps trap, and neighbours took one write
    for place, code in codes:
        assert memory.read(place, len(code)) == code
        padding = memory.read(place + len(code), -len(code) % 16)
        assert place == codes[-1][0] or padding == b"\xcc" * len(padding)  # int3
    assert len(memory.writes) == (1 if codes else 0)
    assert memory.read(AREA, 4) == b"\x0f\x05\xeb\xfe"


def test_slots_of_sites_that_were_unmapped_stay_for_threads_on_their_way_out() -> None:
    area, _ = _area()
    slot = area.enter(SITE, VirtAddr(AREA + 16), _code(20, 0))
    area.forget_sites([SITE, VirtAddr(SITE + 1)])
    assert area.by_site == {}
    assert area.at(AREA + 16) is slot


def test_the_area_of_a_forked_child_goes_its_own_way() -> None:
    # GIVEN a copy
    area, memory = _area()
    slot = area.enter(SITE, next(area.allocate(SITE, 20)), _code(20, 0))
    copy = area.copy_for(FakeMemory(AREA, memory.read(AREA, 16 * PAGE)), 0.0)

    # THEN it knows the slots of before, and what either takes next is its own affair
    assert copy.at(slot.start) is slot
    assert copy.gadget == area.gadget
    place = next(copy.allocate(SITE, 20))
    assert next(area.allocate(SITE, 20)) == place
    copy.enter(VirtAddr(SITE + 1), place, _code(20, 0))
    assert area.at(place) is None
    copy.forget_sites([SITE])
    assert SITE in area.by_site


def test_borrowed_padding_gets_its_bytes_back() -> None:
    # GIVEN the end of a program's page, with something in it
    memory = FakeMemory(AREA, bytes(range(256)) * 16)
    before = memory.read(AREA, PAGE)
    area = SlotArea(memory)
    area.add_region(VirtAddr(AREA + 0xE00), 0x200, mapped=False)

    # WHEN slots were there
    place = next(area.allocate(SITE, 40))
    area.write([(place, b"\x90" * 40)])  # nop
    assert memory.read(AREA, PAGE) != before
    area.restore_padding()

    # THEN it is as it was, once and for all
    assert memory.read(AREA, PAGE) == before
    memory.unmap(AREA // PAGE)
    area.restore_padding()


def test_padding_that_is_not_there_is_not_taken() -> None:
    area = SlotArea(FakeMemory(AREA, bytes(PAGE)))
    with pytest.raises(MemoryFault):
        area.add_region(VirtAddr(AREA - PAGE), PAGE, mapped=False)
    assert area.regions == []
    assert area.padding == []
