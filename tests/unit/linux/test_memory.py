"""Memory of a process reads and writes alike through /proc/PID/mem and through ptrace."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.memory import ProcessMemory, ProgramMemory

PAGE = mmap.PAGESIZE
_WALL = 0x40000000
_PROT_NONE, _PROT_READ = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@dataclass(frozen=True)
class Pages:
    """Two written pages, one read-only, one without any right, then a hole."""

    start: int

    @property
    def read_only(self) -> int:
        return self.start + 2 * PAGE

    @property
    def no_access(self) -> int:
        return self.start + 3 * PAGE

    @property
    def hole(self) -> int:
        return self.start + 4 * PAGE


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    start = _libc.mmap(None, 5 * PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    content = b"".join(bytes([n]) * PAGE for n in b"abcd")
    ctypes.memmove(start, content, len(content))
    _libc.mprotect(start + 2 * PAGE, PAGE, _PROT_READ)
    _libc.mprotect(start + 3 * PAGE, PAGE, _PROT_NONE)
    _libc.munmap(start + 4 * PAGE, PAGE)
    yield Pages(start)
    _libc.munmap(start, 4 * PAGE)


def _fork_a_sleeper() -> int:
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    return child


@pytest.fixture(scope="module")
def stopped(pages: Pages) -> Iterator[int]:
    """A child with a copy of our memory, traced by this thread and stopped."""
    child = _fork_a_sleeper()
    ptrace_calls.call(ptrace_calls.SEIZE, child)
    ptrace_calls.call(ptrace_calls.INTERRUPT, child)
    os.waitpid(child, _WALL)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, _WALL)


def _by_file(pid: int) -> ProcessMemory:
    memory = ProcessMemory(pid)
    assert memory.by_file
    return memory


def _by_word(pid: int) -> ProcessMemory:
    """As where opening /proc/PID/mem is forbidden."""

    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", forbidden)
        memory = ProcessMemory(pid)
    assert not memory.by_file
    return memory


@pytest.fixture(params=[_by_file, _by_word], ids=["by_file", "by_word"])
def memory(request: pytest.FixtureRequest, stopped: int) -> Iterator[ProcessMemory]:
    opened: ProcessMemory = request.param(stopped)
    yield opened
    opened.close()


def test_bytes_are_read_across_a_page_boundary(memory: ProcessMemory, pages: Pages) -> None:
    assert memory.read(pages.start + PAGE - 3, 7) == b"aaabbbb"


def test_what_the_program_may_not_read_is_read(memory: ProcessMemory, pages: Pages) -> None:
    assert memory.read(pages.no_access + PAGE - 9, 9) == b"d" * 9


def test_what_the_program_may_not_write_is_written(memory: ProcessMemory, pages: Pages) -> None:
    memory.write(pages.read_only + 5, b"written")
    assert memory.read(pages.read_only + 4, 9) == b"cwrittenc"
    # AND only there: the page was copied when it was written
    assert ctypes.string_at(pages.read_only + 5, 7) == b"ccccccc"


def test_a_read_into_a_hole_gives_what_there_is_or_says_where_it_ends(
    memory: ProcessMemory, pages: Pages
) -> None:
    assert memory.read_some(pages.hole - 6, 100) == b"d" * 6
    with pytest.raises(MemoryFault) as caught:
        memory.read(pages.hole - 6, 100)
    assert (caught.value.address, caught.value.size) == (pages.hole, 94)


def test_a_write_into_a_hole_is_a_fault(memory: ProcessMemory, pages: Pages) -> None:
    with pytest.raises(MemoryFault):
        memory.write(pages.hole - 3, b"123456")
    with pytest.raises(MemoryFault):
        memory.write(pages.hole + 8, b"1")


def test_closed_memory_is_not_taken_for_what_the_process_has_exec_ed_into(
    memory: ProcessMemory, pages: Pages
) -> None:
    memory.close()
    assert memory.read_some(pages.start, 4) == b""
    with pytest.raises(MemoryFault):
        memory.write(pages.start, b"1234")


@pytest.mark.parametrize("address", [-1, -(1 << 63), 1 << 63, (1 << 64) - 8, 1 << 70, 0])
def test_an_address_that_no_memory_can_have_is_a_fault(memory: ProcessMemory, address: int) -> None:
    assert memory.read_some(address, 8) == b""
    with pytest.raises(MemoryFault):
        memory.read(address, 8)
    with pytest.raises(MemoryFault):
        memory.write(address, b"x")


def test_nothing_is_read_and_written_of_no_size(memory: ProcessMemory, pages: Pages) -> None:
    assert memory.read(pages.start, 0) == b""
    assert memory.read_some(pages.start, -5) == b""
    memory.write(pages.start, b"")
    assert memory.read(pages.start, 2) == b"aa"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(offset=st.integers(0, 2 * PAGE - 40), data=st.binary(max_size=40))
def test_what_is_written_is_read_and_its_neighbours_stay(
    stopped: int, memory: ProcessMemory, pages: Pages, offset: int, data: bytes
) -> None:
    # GIVEN both pages as the other way of access sees them
    other = _by_file(stopped)
    before = other.read(pages.start, 2 * PAGE)

    # WHEN something is written
    memory.write(pages.start + offset, data)

    # THEN that is there, and nothing else has changed
    after = before[:offset] + data + before[offset + len(data) :]
    assert other.read(pages.start, 2 * PAGE) == after
    assert memory.read(pages.start + offset, len(data)) == data
    other.close()


def test_a_write_that_the_file_refuses_is_made_by_ptrace(
    stopped: int, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a kernel whose /proc/PID/mem cannot override protection (proc_mem.force_override)
    def refuses(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    memory = _by_file(stopped)
    monkeypatch.setattr(os, "pwrite", refuses)

    # WHEN the program's read-only page is written
    memory.write(pages.read_only + 101, b"by ptrace")

    # THEN it is
    assert memory.read(pages.read_only + 101, 9) == b"by ptrace"
    memory.close()


@pytest.mark.parametrize("make", [_by_file, _by_word])
def test_memory_of_a_process_that_has_died_is_a_fault(
    make: Callable[[int], ProcessMemory], pages: Pages
) -> None:
    # GIVEN memory of a child that is killed
    child = _fork_a_sleeper()
    memory = make(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    # THEN it is not there
    assert memory.read_some(pages.start, 8) == b""
    with pytest.raises(MemoryFault):
        memory.write(pages.start, b"x")
    memory.close()


def test_closing_twice_closes_nobody_elses_file() -> None:
    memory = ProcessMemory(os.getpid())
    memory.close()
    other = os.open("/dev/null", os.O_RDONLY)
    memory.close()
    os.close(other)


class TestProgramMemory:
    """The rights that the program itself has."""

    def test_what_it_may_is_read_and_written(self, stopped: int, pages: Pages) -> None:
        memory = ProgramMemory(stopped)
        memory.write(pages.start + PAGE - 4, b"12345678")
        assert memory.read(pages.start + PAGE - 5, 10)[1:9] == b"12345678"

    def test_a_page_without_the_right_is_a_fault(self, stopped: int, pages: Pages) -> None:
        memory = ProgramMemory(stopped)
        with pytest.raises(MemoryFault) as caught:
            memory.read(pages.no_access, 8)
        assert caught.value.address == pages.no_access
        with pytest.raises(MemoryFault):
            memory.write(pages.read_only, b"x")

    @pytest.mark.parametrize("address", [0, 1 << 63, (1 << 64) - 1, -8])
    def test_an_address_that_no_memory_can_have_is_a_fault(
        self, stopped: int, address: int
    ) -> None:
        with pytest.raises(MemoryFault):
            ProgramMemory(stopped).read(address, 8)
        with pytest.raises(MemoryFault):
            ProgramMemory(stopped).write(address, bytes(8))

    def test_a_read_that_ends_in_a_fault_gives_nothing(self, stopped: int, pages: Pages) -> None:
        with pytest.raises(MemoryFault):
            ProgramMemory(stopped).read(pages.no_access - 4, 8)

    def test_a_write_that_ends_in_a_fault_has_written_nothing(
        self, stopped: int, pages: Pages
    ) -> None:
        # GIVEN eight bytes, half of them on a page that may not be written
        memory = ProgramMemory(stopped)
        before = memory.read(pages.read_only - 4, 8)

        # WHEN they are written, as by a push that cannot succeed
        with pytest.raises(MemoryFault):
            memory.write(pages.read_only - 4, b"12345678")

        # THEN none of them is, as with the processor
        assert memory.read(pages.read_only - 4, 8) == before
