"""A slot that cannot be had now is not given up for good."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.engine.slot_writer import SlotWriter
from ptrace_uprobes.errors import NoThreadToUse, RemoteCallFailed
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.ssol.plan import Mechanism, plan
from tests.support.fake_tracee import FakeMemory, a_record, a_thread

NEAR, FAR, REGION = 0x40_1000, 0x7F00_0000_1000, 0x50_0000
CMP = bytes.fromhex("83ff03")  # cmp edi, 3: not emulated


def _sites() -> list[PlacedSite]:
    return [PlacedSite(VirtAddr(at), plan(CMP + bytes(13), VirtAddr(at))) for at in (NEAR, FAR)]


def _writer(error: Exception) -> SlotWriter:
    def refuse(*_: object) -> bool:
        raise error

    regions = SimpleNamespace(make_room=refuse)
    return SlotWriter(regions, pytest.fail)  # type: ignore[arg-type]  # all it calls


@pytest.mark.parametrize("error", [NoThreadToUse("busy"), TraceeGone(1)], ids=repr)
def test_without_a_thread_the_caller_is_told_and_what_was_found_is_written(
    error: Exception,
) -> None:
    # GIVEN room near one of two sites
    memory = FakeMemory(REGION, bytes(4096))
    record = a_record(memory)
    a_thread(record)
    record.slots.add_region(VirtAddr(REGION), 4096, mapped=True)

    # WHEN none can be made near the other for now
    near, far = _sites()
    with pytest.raises(type(error)):
        _writer(error).make(record, [near, far])

    # THEN it may be asked for again, and the one that was found has its code
    assert record.no_mmap is None
    assert record.deferred == isinstance(error, NoThreadToUse)
    assert far.plan.mechanism is Mechanism.BOOST
    assert near.slot is not None
    code = memory.read_some(near.slot, 16)
    assert code[9:12] == CMP  # behind what tells the mode


def test_a_call_that_the_program_is_refused_is_not_made_again() -> None:
    record = a_record(FakeMemory(REGION, bytes(4096)))
    a_thread(record)
    _, far = _sites()
    _writer(RemoteCallFailed(12, "no memory")).make(record, [far])
    assert "no memory" in str(record.no_mmap)
    assert far.plan.mechanism is Mechanism.REFUSE
