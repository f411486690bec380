"""Many threads, a timer that fires all the time, threads that come and go: counts stay exact."""

from __future__ import annotations

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.elf_tools import functions, instruction_addresses
from tests.support.probed import run_probed
from tests.support.target import parse_report, start_target

_SHARED = ["shared", "brief", "on_timer"]


def _own(workers: int) -> list[str]:
    return [f"own_{number}" for number in range(workers)]


def _check(workers: int, count: int, mechanism: str, limit: float = 100) -> None:
    program = build_target("threads.c")
    specs = _SHARED + _own(workers)
    probed = run_probed(
        [program, str(workers), str(count)], specs, mechanism=mechanism, limit=limit
    )
    report = parse_report(probed.outcome.stdout.decode())

    assert probed.outcome.status == 0
    assert report["strange_rips"] == 0
    assert {spec: probed.hits[spec] for spec in specs} == {spec: report[spec] for spec in specs}
    assert report["own_0"] == count
    assert not any(probed.missed.values())


@pytest.mark.parametrize("mechanism", ["auto", "emulate", "boost", "step"])
def test_counts_are_exact_with_eight_threads_and_a_signal_each_millisecond(mechanism: str) -> None:
    _check(workers=8, count=400, mechanism=mechanism)


@pytest.mark.soak
@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_counts_are_exact_over_eight_times_a_hundred_thousand_hits(mechanism: str) -> None:
    _check(workers=8, count=100_000, mechanism=mechanism, limit=1500)


def test_counts_are_exact_when_a_running_process_is_probed_before_its_threads_start() -> None:
    # GIVEN a process that waits to be let on
    with start_target(build_target("threads.c"), "6", "300") as target:
        engine = pu.attach(target.pid)
        probes = {spec: engine.probe(spec) for spec in _SHARED + _own(6)}
        engine.start()

        # WHEN it runs to its end
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN it counted what we counted
    assert ended.status == 0
    assert {spec: probe.hits for spec, probe in probes.items()} == {
        spec: ended.report[spec] for spec in probes
    }


def test_a_handler_runs_once_per_hit_of_every_thread() -> None:
    # GIVEN a handler that notes the thread of each hit
    threads: dict[int, int] = {}

    def note(hit: pu.Hit) -> None:
        threads[hit.tid] = threads.get(hit.tid, 0) + 1

    # WHEN four threads call their functions
    specs = _own(4)
    probed = run_probed([build_target("threads.c"), "4", "200"], specs, handler=note)

    # THEN each thread was seen as often as it came
    assert probed.outcome.status == 0
    assert sorted(threads.values()) == [200] * 4


def test_signals_that_bombard_the_thread_that_hits_are_delivered_with_true_registers() -> None:
    # GIVEN a loop that other threads interrupt all the time, with SIGTRAP too
    program = build_target("storm.c")

    # WHEN its function and its handler are probed
    probed = run_probed([program, "3000"], ["hot", "on_signal"])
    report = parse_report(probed.outcome.stdout.decode())

    # THEN the counts are its own, and its handler never saw an address outside its code
    assert probed.outcome.status == 0
    assert report["strange_rips"] == 0
    assert report["wrong_value"] == 0
    assert probed.hits == {"hot": 3000, "on_signal": report["on_signal"]}


@pytest.mark.parametrize("mechanism", ["auto", "boost", "step"])
def test_a_signal_that_arrives_inside_a_slot_is_shown_the_original_address(
    mechanism: str,
) -> None:
    # GIVEN each instruction of the loop's function probed, so that slots are where it spends time
    program = build_target("storm.c")
    hot = functions(program)["hot"]
    specs = [f"{program}:{address:#x}" for address in instruction_addresses(program, hot)]

    # WHEN it is bombarded with signals
    probed = run_probed([program, "400"], specs, mechanism=mechanism)
    report = parse_report(probed.outcome.stdout.decode())

    # THEN no handler ever saw a slot
    assert probed.ended == "exited"
    assert probed.outcome.status == 0
    assert report["strange_rips"] == 0
    assert report["wrong_value"] == 0
    assert set(probed.hits.values()) == {400}


def test_hits_are_counted_when_the_first_thread_ends_before_the_others() -> None:
    # GIVEN a process whose leader is a zombie while its threads work
    program = build_target("leader_exits.c")

    # WHEN they call the probed function
    probed = run_probed([program, "4", "250"], ["hot"])

    # THEN their hits count and the status is the last thread's
    assert probed.outcome.status == 7
    assert probed.hits == {"hot": 1000}


def test_a_process_whose_leader_is_already_a_zombie_can_be_attached_to() -> None:
    # GIVEN such a process, whose other threads wait
    with start_target(build_target("leader_exits.c"), "1", "500") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("hot")
        engine.start()

        # WHEN they go on
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN nothing is lost
    assert ended.status == 7
    assert probe.hits == ended.report["hot"]
