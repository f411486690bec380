"""What the tracer computes ends as it would have in the program: in its own traps and faults."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from ptrace_uprobes.engine import emulation
from ptrace_uprobes.engine.regions import Regions
from ptrace_uprobes.errors import RemoteCallFailed
from ptrace_uprobes.ssol.scratch import SlotArea
from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed
from tests.support.thirty_two import FIXED, build_32

Build = Callable[[str], Path]

_STEPPED = ("push", "nop", "call", "memory", "overlap", "taken", "straight", "away", "ret")
_ATTEMPTS = 9
"""Of each kind in bad_stacks.c."""


def _hits(site: str) -> int:
    """Of both runs through it; three calls return each time."""
    return 6 if site == "ret" else 2


@pytest.fixture(params=["64-bit", "32-bit"])
def build(request: pytest.FixtureRequest) -> Build:
    if request.param == "64-bit":
        return build_target
    return lambda source: build_32(source, *FIXED)


@pytest.fixture
def no_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program whose seccomp filter forbids mmap, and that has no padding."""

    def refuse(*_: object) -> None:
        raise RemoteCallFailed(errno.EPERM, "no memory is given")

    monkeypatch.setattr(SlotArea, "allocate", lambda *_: iter(()))
    monkeypatch.setattr(Regions, "make_room", refuse)


def test_a_program_that_sets_the_trap_flag_is_stopped_behind_what_is_emulated(
    build: Build,
) -> None:
    # GIVEN a program that tells where its own traps find it
    program = build("steps_emulated.c")
    plain = run_plain([program])
    assert plain.status == 0
    assert plain.stdout.count(b"trap at") == 34

    # WHEN instructions are emulated
    sites = [site for site in _STEPPED if site != "overlap"]
    probed = run_probed([program], [f"site_{site}" for site in sites], mechanism="emulate")

    # THEN it tells the same
    assert probed.mechanisms == {"emulate": len(sites)}
    assert probed.hits == {f"site_{site}": _hits(site) for site in sites}
    assert probed.outcome.stdout.decode().splitlines() == plain.stdout.decode().splitlines()
    assert probed.outcome == plain


def test_it_is_stopped_behind_a_call_whose_push_writes_its_operand(build: Build) -> None:
    # GIVEN such a call, which a slot would push before
    program = build("steps_emulated.c")
    plain = run_plain([program])
    # WHEN it is probed, and emulated whatever is asked for
    probed = run_probed([program], ["site_overlap"])
    # THEN it goes where it would, and the vector in the handler's frame is all that may differ
    assert probed.mechanisms == {"emulate": 1}
    assert probed.outcome.stdout.replace(b"vector 3", b"vector 1") == plain.stdout
    assert probed.hits == {"site_overlap": 2}


def test_it_is_stopped_there_without_a_slot_too(build: Build, no_slots: None) -> None:
    # GIVEN the same, where no memory for slots is to be had
    program = build("steps_emulated.c")
    plain = run_plain([program])
    # WHEN the instructions are emulated, as they have to be
    probed = run_probed([program], [f"site_{site}" for site in _STEPPED])
    # THEN the vector in the handler's frame is all that may differ
    assert probed.mechanisms == {"emulate": len(_STEPPED)}
    assert probed.outcome.stdout.replace(b"vector 3", b"vector 1") == plain.stdout
    assert probed.hits == {f"site_{site}": _hits(site) for site in _STEPPED}


def test_a_stack_that_cannot_be_written_faults_as_without_us(build: Build) -> None:
    # GIVEN a program that tells of all that a handler sees of its faults
    program = build("bad_stacks.c")
    plain = run_plain([program])
    assert plain.status == 0
    assert plain.stdout.count(b"signal 11") >= 20

    # WHEN what pushes, or pops, is emulated
    sites = ["site_push", "site_call", "site_memory", "site_pop"]
    probed = run_probed([program], sites, mechanism="emulate")

    # THEN each fault is the same, and each attempt was a hit
    assert probed.mechanisms == {"emulate": 4}
    assert probed.outcome.stdout.decode().splitlines() == plain.stdout.decode().splitlines()
    assert probed.outcome == plain
    assert probed.hits == dict.fromkeys(sites, _ATTEMPTS)


def test_a_fault_without_a_slot_is_the_programs_and_the_trap_is_given_up_by_name(
    build: Build, no_slots: None
) -> None:
    # GIVEN a push that faults, where no slot can be had to execute it in
    program = build("bad_stacks.c")
    plain = run_plain([program])
    # WHEN it is probed
    probed = run_probed([program], ["site_push"])
    # THEN the program meets its faults, and what we do not see from then on is said
    assert probed.outcome == plain
    assert probed.hits["site_push"] == 1
    assert probed.missed["site_push"] == 1
    assert any(emulation.NO_SLOT_FOR_ITS_FAULT in warning for warning in probed.warnings)


def test_a_push_that_has_the_stack_grow_is_counted_each_time(build: Build) -> None:
    # GIVEN a loop that comes to a push with the same registers, the first time where no memory is
    # yet: the tracer cannot write there, and the processor can
    program = build("growing_stack.c")
    assert run_plain([program]).status == 0
    # WHEN it is emulated
    sites = ["site_growing", "site_growing_call"]
    probed = run_probed([program], sites, mechanism="emulate")
    # THEN what the processor did is not taken for an attempt that is still to be finished
    assert probed.mechanisms == {"emulate": 2}
    assert probed.outcome.status == 0
    assert probed.hits == dict.fromkeys(sites, 3)
