"""Attaching and detaching leaves a program under load as it was, however often."""

from __future__ import annotations

import itertools

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.procfs import altered_text, process_state, status_fields, thread_ids, wait_until
from tests.support.target import Target, start_target


def _check_untouched(target: Target) -> None:
    assert altered_text(target.pid) == []
    assert status_fields(target.pid)["TracerPid"] == "0"
    for tid in thread_ids(target.pid):
        # 't' is a ptrace stop, 'T' a group stop: neither may be left behind.
        wait_until("no thread is stopped", lambda tid=tid: process_state(tid) in "RSX")  # type: ignore[misc]
        pending = int(status_fields(target.pid)["ShdPnd"], 16)
        assert not pending & (1 << (5 - 1)), "a SIGTRAP was left pending"
        assert not pending & (1 << (19 - 1)), "a SIGSTOP was left pending"


def _attach_probe_detach(times: int, threads: int, mechanism: str = "auto") -> None:
    with start_target(build_target("server.c"), str(threads)) as target:
        for round_number in range(times):
            with pu.attach(target.pid, mechanism=mechanism) as engine:
                probes = [engine.probe(spec) for spec in ("work", "more_work", "work+0x4")[:2]]
                result = engine.run(max_hits=1 + 13 * (round_number % 5))
            assert result.ended == "max_hits"
            assert sum(probe.hits for probe in probes) >= 1
            if round_number % 20 == 0:
                _check_untouched(target)
        _check_untouched(target)
        ended = target.finish()
    assert ended.status == 0
    assert ended.report == {"did_work": 1, "ticked": 1, "wrong": 0, "strange_rips": 0}
    assert ended.events == ("exited 0",), "its parent saw a stop that was ours"


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_fifty_times_on_a_server_under_load_leaves_it_as_it_was(mechanism: str) -> None:
    _attach_probe_detach(times=50, threads=3, mechanism=mechanism)


@pytest.mark.soak
def test_two_thousand_times_on_a_server_with_many_threads_leaves_it_as_it_was() -> None:
    _attach_probe_detach(times=2000, threads=12)


def test_detaching_without_a_single_hit_leaves_the_process_as_it_was() -> None:
    with start_target(build_target("sleeper.c")) as target:
        with pu.attach(target.pid) as engine:
            engine.probe("idle")
            result = engine.run(timeout=0.05)
        assert result.ended == "timeout"
        assert result.exit_status is None
        _check_untouched(target)
        assert target.finish().status == 5


def test_attaching_without_any_probe_and_leaving_is_harmless() -> None:
    with start_target(build_target("sleeper.c")) as target:
        with pu.attach(target.pid):
            pass
        _check_untouched(target)
        assert target.finish().status == 5


def test_the_layout_of_the_process_is_afterwards_what_it_was() -> None:
    # GIVEN the mappings of a process before
    def files(pid: int) -> list[str]:
        with open(f"/proc/{pid}/maps") as maps:
            return [line.split()[-1] for line in maps if line.split()[-1].startswith("/")]

    with start_target(build_target("sleeper.c")) as target:
        before = files(target.pid)

        # WHEN it has been probed
        with pu.attach(target.pid) as engine:
            engine.probe("idle")
            engine.run(timeout=0.05)

        # THEN no file is mapped that was not, nor elsewhere
        assert set(files(target.pid)) == set(before)


def test_removing_a_probe_while_threads_hammer_it_restores_the_text() -> None:
    # GIVEN a server that hits two probes all the time
    with start_target(build_target("server.c"), "3") as target:
        engine = pu.attach(target.pid)
        work, more = engine.probe("work"), engine.probe("more_work")
        engine.start()
        wait_until("both are hit", lambda: work.hits > 50 and more.hits > 50)

        # WHEN one is removed
        work.remove()
        count = work.hits
        at_removal = more.hits
        wait_until("the other goes on", lambda: more.hits > at_removal + 200)

        # THEN it stands still, and only the other's byte differs from the file
        assert work.hits == count
        assert len(altered_text(target.pid)) == 1
        engine.stop()
        _check_untouched(target)
        assert target.finish().report["wrong"] == 0


def test_probes_can_be_put_in_and_out_and_switched_hundreds_of_times_under_load() -> None:
    with start_target(build_target("server.c"), "3") as target:
        engine = pu.attach(target.pid)
        steady = engine.probe("work")
        engine.start()
        for number in range(150):
            other = engine.probe("more_work" if number % 2 else "work")
            if number % 3 == 0:
                other.enabled = False
                other.enabled = True
            seen = other.hits
            wait_until("it is hit", lambda p=other, n=seen: p.hits > n)  # type: ignore[misc]
            other.remove()
        assert steady.hits > 150
        engine.stop()
        _check_untouched(target)
        assert target.finish().report["wrong"] == 0


def test_two_processes_are_probed_at_once_and_both_left_as_they_were() -> None:
    with (
        start_target(build_target("server.c"), "2") as first,
        start_target(build_target("server.c"), "2") as second,
    ):
        seen: set[int] = set()
        engine = pu.attach([first.pid, second.pid])
        engine.probe("work", lambda hit: seen.add(hit.pid))
        engine.start()
        wait_until("both are hit", lambda: seen == {first.pid, second.pid})
        engine.stop()
        for target in (first, second):
            _check_untouched(target)
            assert target.finish().report["wrong"] == 0


def test_a_process_that_dies_while_it_is_probed_ends_the_run() -> None:
    with start_target(build_target("server.c"), "3") as target:
        engine = pu.attach(target.pid)
        hits = itertools.count()

        def kill(hit: pu.Hit) -> None:
            if next(hits) == 20:
                target.signal(9)

        engine.probe("work", kill)
        result = engine.run(timeout=30)
        assert result.ended == "exited"
        assert target.finish().status == 128 + 9
