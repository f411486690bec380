"""Traps come and go without a trace, and reads never show them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.sites import TrapTable
from tests.support.fake_tracee import PAGE, FakeMemory

CODE = 0x40_0000
SIZE = 3 * PAGE
TRAP = b"\xcc"  # int3


def _code(size: int = SIZE) -> bytes:
    """Bytes that differ from their neighbours; some look like traps of ours."""
    return bytes((n * 7 + n // 256) % 256 for n in range(size))


def _table(data: bytes | None = None) -> tuple[TrapTable, FakeMemory]:
    memory = FakeMemory(CODE, _code() if data is None else data)
    return TrapTable(memory, X86_64), memory


def _at(*offsets: int) -> list[VirtAddr]:
    return [VirtAddr(CODE + offset) for offset in offsets]


def _raw(memory: FakeMemory, size: int = SIZE) -> bytes:
    return memory.read_some(CODE, size)


@pytest.mark.parametrize("joined", [False, True])
def test_an_armed_site_holds_a_trap_and_only_it(joined: bool) -> None:
    table, memory = _table()
    assert table.arm(_at(5, 6, 300, PAGE + 1), joined=joined) == []
    expected = bytearray(_code())
    for offset in (5, 6, 300, PAGE + 1):
        expected[offset] = TRAP[0]
    assert _raw(memory) == bytes(expected)
    assert sorted(table.addresses()) == _at(5, 6, 300, PAGE + 1)
    assert len(table) == 4
    assert CODE + 6 in table
    assert CODE + 7 not in table


def test_separate_writes_touch_nothing_but_the_traps() -> None:
    # The program may write the bytes between them meanwhile.
    table, memory = _table()
    table.arm(_at(5, 6, 300), joined=False)
    table.disarm(_at(5, 6, 300), joined=False)
    assert {size for _, size in memory.writes} == {1}


def test_joined_writes_are_fewer_than_the_traps_and_do_not_span_wide_gaps() -> None:
    table, memory = _table()
    table.arm(_at(*range(0, 400, 10), 2 * PAGE), joined=True)
    assert memory.writes == [(CODE, 391), (CODE + 2 * PAGE, 1)]


@given(st.integers(-20, 60), st.integers(0, 60))
def test_a_read_shows_the_programs_own_bytes_wherever_it_begins_and_ends(
    start: int, size: int
) -> None:
    table, memory = _table()
    memory.map(CODE - PAGE, bytes(PAGE))
    table.arm(_at(0, 1, 7, 30), joined=True)
    whole = bytes(PAGE) + _code()
    expected = whole[PAGE + start : PAGE + start + size]
    assert table.read(CODE + start, size) == expected
    assert table.read_some(CODE + start, size) == expected


def test_a_read_that_is_cut_short_is_masked_too() -> None:
    table, _ = _table()
    table.arm(_at(SIZE - 1), joined=False)
    assert table.read_some(CODE + SIZE - 2, 100) == _code()[-2:]
    with pytest.raises(MemoryFault):
        table.read(CODE + SIZE - 2, 100)


def test_a_breakpoint_of_the_programs_own_is_shown() -> None:
    table, _ = _table(TRAP * 8)
    table.arm(_at(3), joined=False)
    assert table.read(CODE, 8) == TRAP * 8


def test_arming_twice_keeps_the_first_byte() -> None:
    table, memory = _table()
    table.arm(_at(9), joined=False)
    table.arm(_at(9, 10), joined=True)
    table.disarm(_at(9, 10), joined=True)
    assert _raw(memory) == _code()


@pytest.mark.parametrize("joined", [False, True])
def test_an_address_that_is_named_twice_at_once_is_armed_once(joined: bool) -> None:
    table, memory = _table()
    table.arm(_at(9, 9), joined=joined)
    table.disarm(_at(9), joined=joined)
    assert _raw(memory) == _code()


def test_disarming_what_holds_no_trap_changes_nothing() -> None:
    table, memory = _table()
    table.disarm(_at(1, 2, 3), joined=True)
    assert _raw(memory) == _code()
    assert memory.writes == []


def test_code_that_the_program_has_put_over_a_trap_stays() -> None:
    # GIVEN a trap that the program has overwritten
    table, memory = _table()
    table.arm(_at(4, 8), joined=True)
    memory.write(CODE + 4, b"\x90")  # nop

    # THEN it is shown, and stays when the traps go
    assert table.read(CODE + 4, 1) == b"\x90"
    table.disarm(_at(4, 8), joined=True)
    assert _raw(memory) == _code()[:4] + b"\x90" + _code()[5:]


def test_a_write_over_a_trap_is_kept_for_when_it_goes() -> None:
    table, memory = _table()
    table.arm(_at(4), joined=False)
    table.write(CODE + 3, b"abc")
    assert _raw(memory)[3:6] == b"a" + TRAP + b"c"
    assert table.read(CODE + 3, 3) == b"abc"
    table.disarm(_at(4), joined=False)
    assert _raw(memory)[3:6] == b"abc"


def test_a_write_that_fails_leaves_what_is_to_be_put_back() -> None:
    # GIVEN a trap just behind a hole
    table, memory = _table()
    table.arm(_at(0), joined=False)

    # WHEN a write begins in the hole
    with pytest.raises(MemoryFault):
        table.write(CODE - 2, b"abc")

    # THEN nothing was written, and the program's byte comes back
    table.disarm(_at(0), joined=False)
    assert _raw(memory) == _code()


def test_an_address_that_is_not_mapped_is_handed_back_and_the_others_are_armed() -> None:
    table, memory = _table()
    memory.unmap(CODE // PAGE + 1)
    wanted = _at(PAGE - 1, PAGE, PAGE + 5, 2 * PAGE)
    assert table.arm(wanted, joined=True) == _at(PAGE, PAGE + 5)
    assert sorted(table.addresses()) == _at(PAGE - 1, 2 * PAGE)
    table.disarm(table.addresses(), joined=True)
    assert memory.read(CODE, PAGE) == _code()[:PAGE]


def test_a_joined_write_that_fails_half_way_loses_no_byte() -> None:
    # GIVEN a page that can be written, before one that cannot
    table, memory = _table()
    memory.read_only.add(CODE // PAGE + 1)

    # WHEN traps are written to both at once, and taken out again
    failed = table.arm(_at(PAGE - 1, PAGE), joined=True)
    table.disarm(table.addresses(), joined=True)

    # THEN the program's bytes are back
    assert failed == _at(PAGE)
    assert _raw(memory) == _code()


def test_memory_that_was_unmapped_needs_no_byte_put_back() -> None:
    table, memory = _table()
    table.arm(_at(PAGE - 1, PAGE, PAGE + 1), joined=True)
    memory.unmap(CODE // PAGE)
    table.disarm(table.addresses(), joined=True)
    assert len(table) == 0
    assert memory.read(CODE + PAGE, 2 * PAGE) == _code()[PAGE:]


def test_what_is_forgotten_is_not_written_again() -> None:
    # GIVEN a trap whose page was mapped anew
    table, memory = _table()
    table.arm(_at(0, PAGE), joined=True)
    memory.unmap(CODE // PAGE)
    memory.map(CODE, TRAP * 16)
    table.forget(_at(0))

    # THEN the new page is not ours
    assert table.addresses() == _at(PAGE)
    table.disarm(_at(0, PAGE), joined=True)
    assert memory.read(CODE, 16) == TRAP * 16
    table.forget(_at(0))


def test_the_table_of_a_forked_child_is_its_own() -> None:
    # GIVEN a child's copy of memory and table
    table, memory = _table()
    table.arm(_at(1, 2), joined=True)
    childs = FakeMemory(CODE, _raw(memory))
    copy = table.copy_for(childs, X86_64, _now() + 1)

    # WHEN the child's traps go
    assert copy.read(CODE, 8) == _code()[:8]
    copy.disarm(copy.addresses(), joined=True)

    # THEN the parent's stay
    assert _raw(childs) == _code()
    assert sorted(table.addresses()) == _at(1, 2)
    assert _raw(memory)[1:3] == TRAP * 2


def test_traps_that_came_and_went_while_a_child_was_forked_are_known_by_its_memory() -> None:
    # GIVEN a fork that is reported after a trap has gone and another has come
    table, memory = _table()
    table.arm(_at(1, 2), joined=True)
    forked_at = _now()
    childs = FakeMemory(CODE, _raw(memory))
    table.disarm(_at(2), joined=True)
    table.arm(_at(3), joined=True)

    # WHEN the child gets its table
    copy = table.copy_for(childs, X86_64, forked_at)

    # THEN it is of the traps that the child's memory has, and takes all of them out
    assert sorted(copy.addresses()) == _at(1, 2)
    assert copy.read(CODE, 8) == _code()[:8]
    copy.disarm(copy.addresses(), joined=True)
    assert _raw(childs) == _code()


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# -- any sequence

places = st.lists(st.integers(0, 1600), max_size=12, unique=True)


class AnySequence(RuleBasedStateMachine):
    """Arms, disarms and writes in any order; `code` is what the program should have."""

    @initialize(data=st.binary(min_size=1700, max_size=1700))
    def begin(self, data: bytes) -> None:
        self.code = bytearray(data)
        self.memory = FakeMemory(CODE, data)
        self.table = TrapTable(self.memory, X86_64)
        self.armed: set[int] = set()
        self.written = False

    @rule(offsets=places, joined=st.booleans())
    def arm(self, offsets: Iterable[int], joined: bool) -> None:
        assert self.table.arm(_at(*offsets), joined=joined) == []
        self.armed |= set(offsets)

    @rule(offsets=places, joined=st.booleans())
    def disarm(self, offsets: Iterable[int], joined: bool) -> None:
        self.table.disarm(_at(*offsets), joined=joined)
        self.armed -= set(offsets)

    @rule(offset=st.integers(0, 1600), data=st.binary(max_size=40))
    def write(self, offset: int, data: bytes) -> None:
        self.table.write(CODE + offset, data)
        self.written = True
        self.code[offset : offset + len(data)] = data

    @rule(joined=st.booleans())
    def all_go(self, joined: bool) -> None:
        self.table.disarm(self.table.addresses(), joined=joined)
        self.armed = set()
        assert _raw(self.memory, 1700) == bytes(self.code)

    @rule(later=st.sampled_from([0, 1]))
    def fork(self, later: int) -> None:
        # What a fork at the time of a change inherits is judged by its memory: there, a byte
        # that was written where a trap once was cannot be told from one of ours.
        later = later or int(self.written)
        self.memory = FakeMemory(CODE, _raw(self.memory, 1700))
        self.table = self.table.copy_for(self.memory, X86_64, _now() + later)

    @invariant()
    def reads_never_show_a_trap(self) -> None:
        assert self.table.read(CODE, 1700) == bytes(self.code)

    @invariant()
    def memory_differs_by_the_traps_alone(self) -> None:
        expected = bytearray(self.code)
        for offset in self.armed:
            expected[offset] = TRAP[0]
        assert _raw(self.memory, 1700) == bytes(expected)
        assert {address - CODE for address in self.table.addresses()} == self.armed


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=25)
