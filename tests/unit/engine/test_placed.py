"""What the engine knows of a site, and of an address space."""

from __future__ import annotations

import pytest

from ptrace_uprobes.addresses import FileOffset, VirtAddr
from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.probe import Handler, Hit, Probe, SiteCount
from ptrace_uprobes.ssol.plan import Mechanism, plan
from ptrace_uprobes.symbols.image import image_from_bytes
from ptrace_uprobes.symbols.modules import Module
from tests.support.elf_writer import TEXT, ElfSymbol, write_elf
from tests.support.fake_tracee import PAGE, FakeMemory, a_record

BIAS = 0x5000_0000
SITE = VirtAddr(BIAS + TEXT + 4)
SLOT = VirtAddr(BIAS + 0x10_0000)
PUSH = b"\x55"  # push rbp
MOV = b"\x48\x89\xe5"  # mov rbp, rsp


class _Host:
    """Acts on what a probe asks, as the engine does."""

    def set_enabled(self, probe: Probe, enabled: bool) -> None:
        probe.mark_enabled(enabled)

    def set_handler(self, probe: Probe, handler: Handler | None) -> None:
        probe.handler = handler

    def remove_probe(self, probe: Probe) -> None:
        probe.removed = True


def _count(handler: Handler | None = None) -> SiteCount:
    probe = Probe(parse_definition("f"), handler, _Host(), blocking=False)
    return SiteCount(probe, "f", SITE, "/bin/a")


def _placed(code: bytes = MOV, prefer: Mechanism | None = None) -> PlacedSite:
    placed = PlacedSite(SITE, plan(code, SITE, prefer=prefer))
    placed.set_slot(SLOT)
    return placed


def _ignore(hit: Hit) -> None: ...


def test_a_boosted_site_goes_on_in_its_slot_each_time() -> None:
    placed = _placed()
    assert placed.plan.mechanism is Mechanism.BOOST
    assert placed.resume_at == SLOT
    assert placed.resume_c.value == SLOT


def test_a_stepped_site_has_a_slot_and_no_fixed_place_to_go_on() -> None:
    placed = _placed(prefer=Mechanism.STEP)
    assert placed.plan.mechanism is Mechanism.STEP
    assert placed.slot == SLOT
    assert placed.resume_at == 0


def test_a_trap_on_a_longer_instruction_cannot_be_taken_for_anything_else() -> None:
    assert _placed(MOV).certain
    assert not _placed(PUSH).certain


def test_one_probe_that_only_counts_takes_the_fastest_path() -> None:
    placed = _placed()
    count = _count()
    placed.add(count)
    assert placed.sole is count
    assert placed.counts == (count,)
    assert placed.wanted


@pytest.mark.parametrize("why", ["handler", "two", "watched", "stepped", "disabled"])
def test_whatever_needs_more_does_not(why: str) -> None:
    placed = _placed(prefer=Mechanism.STEP if why == "stepped" else None)
    count = _count(_ignore if why == "handler" else None)
    placed.add(count)
    if why == "two":
        placed.add(_count())
    elif why == "watched":
        placed.internal = "r_brk"
    elif why == "disabled":
        count.probe.enabled = False
    placed.update()
    assert placed.sole is None


def test_a_handler_that_comes_later_ends_the_fastest_path() -> None:
    placed = _placed()
    count = _count()
    placed.add(count)
    count.probe(_ignore)
    placed.update()
    assert placed.sole is None
    assert placed.counts == (count,)


def test_probes_keep_their_order_and_each_is_there_once() -> None:
    placed = _placed()
    first, second = _count(_ignore), _count(_ignore)
    for count in (first, second, first):
        placed.add(count)
    assert placed.counts == (first, second)


def test_a_disabled_probe_keeps_its_place_and_a_removed_one_does_not() -> None:
    # GIVEN two probes of one site
    placed = _placed()
    first, second = _count(), _count()
    placed.add(first)
    placed.add(second)

    # WHEN one is disabled, and the other removed
    first.probe.enabled = False
    second.probe.remove()
    placed.update()

    # THEN nobody wants the trap now, and the first may again
    assert not placed.wanted
    assert placed.all_counts == [first]
    first.probe.enabled = True
    placed.update()
    assert placed.sole is first


def test_a_site_that_the_engine_watches_is_wanted_without_any_probe() -> None:
    placed = _placed()
    assert not placed.wanted
    placed.internal = "r_brk"
    assert placed.wanted


# -- an address space

CODE = PUSH + MOV + b"\xc3"  # ret


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory(BIAS + TEXT, CODE.rjust(PAGE // 2, b"\x90"))  # nop


def _module() -> Module:
    symbols = [ElfSymbol("main", TEXT, 16), ElfSymbol("helper", TEXT + 32, 8)]
    image = image_from_bytes(write_elf(symbols), "/bin/a")
    start = VirtAddr(BIAS + TEXT)
    return Module("/bin/a", image, BIAS, start, VirtAddr(start + PAGE), True)


def _mapping(start: int, size: int) -> Mapping:
    return Mapping(
        VirtAddr(start), VirtAddr(start + size), "r-xp", FileOffset(0), "fd:01", 7, "/a", False
    )


def test_an_address_is_in_the_module_and_the_mapping_that_hold_it(memory: FakeMemory) -> None:
    record = a_record(memory)
    module = _module()
    mapping = _mapping(BIAS, 2 * PAGE)
    record.modules.append(module)
    record.mappings.append(mapping)
    assert record.module_at(BIAS + TEXT) is module
    assert record.module_at(BIAS + TEXT + PAGE) is None
    assert record.mapping_at(BIAS) is mapping
    assert record.mapping_at(BIAS + 2 * PAGE) is None


def test_a_code_address_is_named_by_its_function_else_its_file_else_its_number(
    memory: FakeMemory,
) -> None:
    record = a_record(memory)
    record.modules.append(_module())
    assert record.name_of(BIAS + TEXT) == "main"
    assert record.name_of(BIAS + TEXT + 9) == "main+0x9"
    assert record.name_of(BIAS + TEXT + 0x800) == f"a+{TEXT + 0x800:#x}"
    assert record.name_of(0x1234) == "0x1234"


def test_an_address_in_a_slot_is_named_by_its_site(memory: FakeMemory) -> None:
    # GIVEN a slot of an instruction in main
    record = a_record(memory)
    record.modules.append(_module())
    memory.map(SLOT, bytes(PAGE))
    record.slots.add_region(SLOT, PAGE, mapped=True)
    placed = plan(MOV, SITE)
    start = next(record.slots.allocate(SITE, placed.slot_size))
    record.slots.enter(SITE, start, placed.assemble(start))

    # THEN a return address or RIP in it reads as the program's own
    assert record.name_of(start) == "main+0x4"


@pytest.mark.parametrize("offset", range(-2, 4))
def test_a_write_is_refused_over_a_probed_instruction_and_nowhere_else(
    memory: FakeMemory, offset: int
) -> None:
    # GIVEN a probe of an instruction of three bytes
    record = a_record(memory)
    record.sites()[SITE + 1] = PlacedSite(SITE, plan(MOV, SITE))
    before = memory.read(SITE - 4, 32)

    # WHEN two bytes are written around it
    if -2 < offset < 3:
        with pytest.raises(ValueError, match=f"the instruction at {SITE:#x} is under a probe"):
            record.write(SITE + offset, b"ab")
        # THEN nothing has changed
        assert memory.read(SITE - 4, 32) == before
    else:
        record.write(SITE + offset, b"ab")
        assert memory.read(SITE + offset, 2) == b"ab"


def test_a_write_of_nothing_beside_an_instruction_is_no_error(memory: FakeMemory) -> None:
    record = a_record(memory)
    record.sites()[SITE + 1] = PlacedSite(SITE, plan(MOV, SITE))
    before = memory.read(SITE - 4, 32)
    record.write(SITE, b"")
    record.write(SITE + 3, b"")
    assert memory.read(SITE - 4, 32) == before
