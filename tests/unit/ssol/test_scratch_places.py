"""Regions for slots lie where nothing else does, near their sites and out of the way."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.addresses import FileOffset, VirtAddr
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.ssol.scratch import (
    PAGE,
    REACH,
    candidate_places,
    padding_gaps,
)

AREA = VirtAddr(0x7F00_0000_0000)
SITE = VirtAddr(AREA - 0x10_0000)
MMAP_MIN_ADDR = 0x10000
TOP = (1 << 47) - PAGE
"""The end of what a program can map (arch/x86/include/asm/page_64_types.h, TASK_SIZE_MAX)."""


def _mapping(start: int, end: int, permissions: str = "r-xp", path: str = "/bin/a") -> Mapping:
    return Mapping(
        VirtAddr(start), VirtAddr(end), permissions, FileOffset(0), "fd:01", 7, path, False
    )


# -- where to map a region

pages = st.integers(MMAP_MIN_ADDR // PAGE, TOP // PAGE - 1)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Mapping], int, int]:
    """Mappings in order, apart or touching, and the extent of one that has sites."""
    cluster = draw(pages)
    starts = draw(
        st.lists(
            st.one_of(pages, st.integers(cluster, min(cluster + 0x100000, TOP // PAGE - 1))),
            min_size=1,
            max_size=12,
            unique=True,
        ).map(sorted)
    )
    mappings = []
    for index, start in enumerate(starts):
        limit = starts[index + 1] if index + 1 < len(starts) else TOP // PAGE
        size = draw(st.one_of(st.just(limit - start), st.integers(1, limit - start)))
        path = "[stack]" if index and draw(st.booleans()) and index + 1 == len(starts) else "/a"
        mappings.append(_mapping(start * PAGE, (start + size) * PAGE, path=path))
    home = draw(st.sampled_from(mappings))
    if draw(st.booleans()):
        mappings.append(_mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "--xp", "[vsyscall]"))
    return mappings, home.start, home.end


@given(
    layouts(),
    st.integers(1, 64 * PAGE),
    st.one_of(st.none(), st.sampled_from([0, 8 << 20, 1 << 30, 1 << 40])),
)
def test_a_place_overlaps_nothing_is_in_reach_and_can_be_mapped(
    layout: tuple[list[Mapping], int, int], size: int, stack_limit: int | None
) -> None:
    # GIVEN any layout of an address space
    mappings, low, high = layout

    # THEN each place that is offered can be mapped and serves
    for place in candidate_places(mappings, low, high, size, stack_limit):
        end = place + -(-size // PAGE) * PAGE
        assert place % PAGE == 0
        assert place >= MMAP_MIN_ADDR
        assert end <= TOP
        assert not any(m.start < end and place < m.end for m in mappings)
        assert max(abs(place - high), abs(end - low)) < 1 << 31


@given(layouts(), st.integers(1, 64))
def test_where_a_hole_in_reach_is_large_enough_there_is_a_place(
    layout: tuple[list[Mapping], int, int], count: int
) -> None:
    # GIVEN a layout with room right below or above the code
    mappings, low, high = layout
    size = count * PAGE
    below = max((m.end for m in mappings if m.end <= low), default=MMAP_MIN_ADDR)
    above = min((m.start for m in mappings if m.start >= high), default=TOP)
    near = high - low < REACH - size
    if near and (low - below >= size or min(above, TOP) - high >= size):
        # THEN it is found, if nothing better is
        assert next(candidate_places(mappings, low, high, size, None), None) is not None


def _usual_layout() -> tuple[list[Mapping], Mapping, Mapping]:
    program = _mapping(0x55D0_C8A0_2000, 0x55D0_C8A0_7000, path="/usr/bin/cat")
    heap = _mapping(0x55D0_CA2F_1000, 0x55D0_CA31_2000, "rw-p", "[heap]")
    library = _mapping(0x7F3A_5C00_0000, 0x7F3A_5C20_0000, path="/usr/lib/libc.so.6")
    loader = _mapping(0x7F3A_5C30_0000, 0x7F3A_5C33_0000, path="/usr/lib/ld-linux.so")
    stack = _mapping(0x7FFD_2B1A_4000, 0x7FFD_2B1C_5000, "rw-p", "[stack]")
    return [program, heap, library, loader, stack], program, library


def test_a_region_for_libraries_stays_clear_of_the_programs_next_mapping_and_of_its_stack() -> None:
    # GIVEN the usual layout: mappings grow downwards from the loader, the stack from its start
    mappings, _, library = _usual_layout()
    size = 16 * PAGE
    limit = 8 << 20

    # WHEN a place near a library is asked for
    place = next(candidate_places(mappings, library.start, library.end, size, limit))

    # THEN it is where the kernel puts nothing: above all mappings, below what the stack may need
    loader, stack = mappings[3], mappings[4]
    assert loader.end < place
    assert place + size < stack.end - limit


def test_a_region_for_the_program_stays_clear_of_its_heap() -> None:
    mappings, program, _ = _usual_layout()
    heap = mappings[1]
    place = next(candidate_places(mappings, program.start, program.end, 16 * PAGE, 8 << 20))
    assert place + 16 * PAGE <= program.start or place - heap.end > 1 << 26


def test_without_a_stack_limit_the_room_below_the_stack_is_the_stacks() -> None:
    mappings, _, library = _usual_layout()
    stack = mappings[4]
    first = next(candidate_places(mappings, library.start, library.end, 16 * PAGE, None))
    assert not mappings[3].end < first < stack.start


def test_where_there_is_no_hole_in_reach_there_is_no_place() -> None:
    wall = _mapping(AREA - (3 << 30), AREA + (3 << 30))
    assert list(candidate_places([wall], AREA, AREA + PAGE, PAGE, None)) == []


# -- padding


@given(
    st.lists(st.tuples(st.integers(0x100, 0x120), st.integers(1, 3 * PAGE)), max_size=6),
    st.lists(st.tuples(st.integers(0x100, 0x120), st.integers(1, 4)), max_size=6),
)
def test_padding_lies_behind_a_segment_in_its_last_page_and_is_executable(
    segments: Sequence[tuple[int, int]], mapped: Sequence[tuple[int, int]]
) -> None:
    # GIVEN any segments, and executable mappings that hold some of them
    used = [(page * PAGE, page * PAGE + size) for page, size in segments]
    mappings = [_mapping(page * PAGE, (page + count) * PAGE) for page, count in mapped]

    # THEN each gap is the rest of a segment's last page
    for start, size in padding_gaps(mappings, used):
        assert start % 16 == 0
        assert size >= 32
        assert (start + size) % PAGE == 0
        assert any(end <= start < end + 16 and start + size - end < PAGE for _, end in used)
        assert any(m.start <= start and start + size <= m.end for m in mappings)


def test_a_segment_that_fills_its_page_or_is_not_executable_has_no_padding() -> None:
    code = _mapping(AREA, AREA + 2 * PAGE)
    data = _mapping(AREA + 2 * PAGE, AREA + 3 * PAGE, "rw-p")
    used = [
        (AREA, AREA + PAGE),
        (AREA + PAGE, AREA + 2 * PAGE - 31),
        (AREA + 2 * PAGE, AREA + 2 * PAGE + 100),
    ]
    assert list(padding_gaps([code, data], used)) == []
    assert list(padding_gaps([code, data], [(AREA, AREA + 2 * PAGE - 32)])) == [
        (AREA + 2 * PAGE - 32, 32)
    ]
