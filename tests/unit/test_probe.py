"""What a handler can ask of a hit, and what a probe tells, without a process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.errors import HitIsOver, MemoryFault
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS, UserRegs
from ptrace_uprobes.probe import Handler, Hit, Probe, Registers, SiteCount
from tests.support.fake_tracee import PAGE, FakeMemory, a_record, a_thread

DATA = 0x7000_0000
SITE = VirtAddr(0x40_1000)
MASK = (1 << 64) - 1


class Host:
    """Notes what probes ask of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def set_enabled(self, probe: Probe, enabled: bool) -> None:
        self.asked.append(("enabled", probe, enabled))

    def set_handler(self, probe: Probe, handler: Handler | None) -> None:
        self.asked.append(("handler", probe, handler))

    def remove_probe(self, probe: Probe) -> None:
        self.asked.append(("remove", probe))


def _probe(text: str = "libc:malloc", host: Host | None = None) -> Probe:
    return Probe(parse_definition(text), None, host or Host(), blocking=False)


def _hit(memory: FakeMemory | None = None) -> Hit:
    record = a_record(memory or FakeMemory(DATA, bytes(PAGE)))
    probe = _probe()
    return Hit(SiteCount(probe, "malloc", SITE, "/usr/lib/libc.so.6"), a_thread(record), SITE)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The registers that the kernel would give; `reads` counts how often it was asked."""
    values = {"reads": 0, "rip": SITE + 1, "rsp": DATA + 64, "rdi": 11, "r9": 66}

    def get(tid: int, into: UserRegs | None = None) -> UserRegs:
        assert into is not None
        values["reads"] += 1
        for name in USER_OFFSETS:
            UserRegs.__setattr__(into, name, values.get(name, 0))  # as memory, not as a user does
        return into

    monkeypatch.setattr(ptrace_calls, "get_registers", get)
    return values


# -- registers


@pytest.mark.parametrize("name", sorted(USER_OFFSETS))
def test_each_register_can_be_assigned_and_marks_the_set(name: str) -> None:
    registers = Registers()
    registers.dirty = False
    setattr(registers, name, 0x1234)
    assert registers.dirty
    assert getattr(registers, name) == 0x1234


@given(st.sampled_from(sorted(USER_OFFSETS)), st.integers(-(1 << 70), 1 << 70))
def test_a_register_holds_the_low_sixty_four_bits_and_moves_no_other(name: str, value: int) -> None:
    registers = Registers()
    setattr(registers, name, value)
    others = [getattr(registers, other) for other in USER_OFFSETS if other != name]
    assert getattr(registers, name) == value & MASK
    assert not any(others)


def test_reading_a_register_marks_nothing() -> None:
    registers = Registers()
    registers.dirty = False
    assert (registers.rax, registers.eflags, registers.fs_base) == (0, 0, 0)
    assert not registers.dirty


@pytest.mark.parametrize("name", ["eax", "RAX", "rip2", "pc", "_fields_"])
def test_a_misspelt_register_is_an_error_and_no_new_attribute(name: str) -> None:
    registers = Registers()
    registers.dirty = False
    with pytest.raises(AttributeError, match=name):
        setattr(registers, name, 1)
    assert not registers.dirty


# -- probes


def test_a_probe_says_what_was_asked_for() -> None:
    probe = _probe("libc:mem*")
    assert probe.spec == "libc:mem*"
    assert (probe.hits, probe.missed, probe.enabled, probe.pending) == (0, 0, True, True)
    assert repr(probe) == "Probe('libc:mem*', hits=0)"


def test_a_probes_hits_are_those_of_all_its_places() -> None:
    probe = _probe("libc:mem*")
    for number, label in enumerate(("memcpy", "memset"), 1):
        place = SiteCount(probe, label, VirtAddr(SITE + number), "/libc.so.6")
        place.hits = number * 10
        probe.places["/libc.so.6", label] = place
    assert probe.hits == 30
    assert [place.label for place in probe.sites] == ["memcpy", "memset"]
    assert repr(probe.sites[0]) == "SiteCount('memcpy', 0x401001, hits=10)"


def test_missed_executions_are_counted_by_their_cause() -> None:
    probe = _probe()
    for cause in ("gone", "gone", "handler busy"):
        probe.miss(cause)
    assert probe.missed == 3
    assert probe.missed_causes == {"gone": 2, "handler busy": 1}


def test_what_a_probe_is_told_to_do_its_engine_does() -> None:
    # GIVEN a probe of an engine
    host = Host()
    probe = _probe(host=host)

    # WHEN it is used as a decorator, switched and removed
    @probe
    def handler(hit: Hit) -> None: ...

    probe.enabled = False
    probe.remove()

    # THEN the engine was asked, and the probe says nothing before the engine has acted
    assert handler is probe
    assert [what for what, *_ in host.asked] == ["handler", "enabled", "remove"]
    assert probe.enabled
    probe.mark_enabled(False)
    assert not probe.enabled


# -- hits


def test_a_hit_tells_where_it_was() -> None:
    hit = _hit()
    assert (hit.label, hit.module, hit.address) == ("malloc", "/usr/lib/libc.so.6", SITE)
    assert (hit.pid, hit.tid) == (hit._thread.tid, hit._thread.tid)
    assert hit.probe.spec == "libc:malloc"
    assert hit.time_ns > 0


def test_registers_are_read_once_and_only_when_they_are_asked_for(kernel: dict[str, int]) -> None:
    hit = _hit()
    assert kernel["reads"] == 0
    assert (hit.registers.rdi, hit.registers.r9) == (11, 66)
    assert kernel["reads"] == 1
    assert not hit.registers.dirty


def test_the_instruction_pointer_is_the_sites_and_not_behind_the_trap(
    kernel: dict[str, int],
) -> None:
    assert _hit().registers.rip == SITE


def test_the_first_arguments_are_registers_and_the_others_above_the_return_address(
    kernel: dict[str, int],
) -> None:
    # GIVEN a stack with a return address and three more arguments
    stack = b"".join(n.to_bytes(8, "little") for n in (0x401234, 77, MASK, 99))
    hit = _hit(FakeMemory(DATA + 64, stack))
    kernel.update(rdi=1, rsi=2, rdx=3, rcx=4, r8=5, r9=6)

    # THEN all nine are there
    assert [hit.argument(n) for n in range(9)] == [1, 2, 3, 4, 5, 6, 77, MASK, 99]


def test_an_argument_that_cannot_be_had_is_an_error(kernel: dict[str, int]) -> None:
    hit = _hit()
    kernel["rsp"] = 0x10
    with pytest.raises(ValueError, match="counted from 0"):
        hit.argument(-1)
    with pytest.raises(MemoryFault):
        hit.argument(6)


@given(st.integers(-(1 << 70), 1 << 70))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_returning_now_pops_the_return_address_and_gives_the_value(
    kernel: dict[str, int], value: int
) -> None:
    hit = _hit(FakeMemory(DATA + 64, (0x401234).to_bytes(8, "little")))
    hit.return_now(value)
    assert hit.registers.rax == value & MASK
    assert hit.registers.rip == 0x401234
    assert hit.registers.rsp == DATA + 72
    assert hit.registers.dirty


def test_returning_now_without_a_stack_changes_nothing(kernel: dict[str, int]) -> None:
    hit = _hit()
    kernel["rsp"] = 0x10
    with pytest.raises(MemoryFault):
        hit.return_now(5)
    assert not hit.registers.dirty


def test_reads_show_no_trap() -> None:
    memory = FakeMemory(DATA, b"\x55\x48\x89\xe5")  # push rbp; mov rbp, rsp
    hit = _hit(memory)
    traps = hit._thread.process.space.extra.traps
    traps.arm([VirtAddr(DATA + 1)], joined=False)
    assert hit.read(DATA, 4) == b"\x55\x48\x89\xe5"
    assert hit.read_string(DATA, 4) == b"\x55\x48\x89\xe5"
    assert memory.read(DATA, 4) == b"\x55\xcc\x89\xe5"


texts = st.binary(max_size=3 * PAGE).map(lambda data: data.replace(b"\0", b"x"))


@given(texts, st.integers(0, PAGE), st.integers(0, 2 * PAGE))
@settings(max_examples=60)
def test_a_string_is_read_up_to_its_end_or_the_limit_whatever_pages_it_lies_on(
    text: bytes, offset: int, limit: int
) -> None:
    hit = _hit(FakeMemory(DATA + offset, text + b"\0garbage"))
    assert hit.read_string(DATA + offset, limit) == text[:limit]


@pytest.mark.parametrize("size", [1, 255, 256, 257, PAGE])
def test_a_string_that_runs_into_a_hole_is_what_there_is_of_it(size: int) -> None:
    memory = FakeMemory(DATA, bytes(PAGE - size) + b"s" * size)
    assert _hit(memory).read_string(DATA + PAGE - size) == b"s" * size


def test_a_string_that_begins_nowhere_is_a_fault() -> None:
    for address in (DATA + PAGE, 0, -1, 1 << 64):
        with pytest.raises(MemoryFault):
            _hit().read_string(address)


def test_what_is_written_is_the_programs() -> None:
    memory = FakeMemory(DATA, bytes(PAGE))
    hit = _hit(memory)
    hit.write(DATA + 4, b"abc")
    assert memory.read(DATA + 3, 5) == b"\0abc\0"


USES: list[tuple[str, Callable[[Hit], object]]] = [
    ("read", lambda hit: hit.read(DATA, 1)),
    ("read_string", lambda hit: hit.read_string(DATA)),
    ("write", lambda hit: hit.write(DATA, b"x")),
    ("symbol", lambda hit: hit.symbol(SITE)),
    ("registers", lambda hit: hit.registers),
    ("registers", lambda hit: hit.argument(0)),
    ("registers", lambda hit: hit.return_now()),
]


@pytest.mark.parametrize(("name", "use"), USES)
def test_a_hit_that_is_over_says_so_when_it_is_used(
    kernel: dict[str, int], name: str, use: Callable[[Hit], object]
) -> None:
    hit = _hit()
    hit.close()
    with pytest.raises(HitIsOver, match=rf"hit\.{name} was used after"):
        use(hit)


def test_what_was_read_before_a_hit_was_over_is_still_there(kernel: dict[str, int]) -> None:
    hit = _hit()
    assert hit.registers.rdi == 11
    hit.close()
    assert hit.registers.rdi == 11
    assert (hit.label, hit.address) == ("malloc", SITE)
