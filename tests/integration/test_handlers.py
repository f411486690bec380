"""What a handler can see of a hit, and change, and what happens when it misbehaves."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes import errors
from tests.support.build import build_target
from tests.support.elf_tools import file_offset, functions
from tests.support.probed import ProbedRun, run_plain, run_probed
from tests.support.procfs import wait_until
from tests.support.target import parse_report, start_target


def _calls(spec: str, handler: Callable[[pu.Hit], object], mechanism: str = "auto") -> ProbedRun:
    run = run_probed([build_target("calls.c"), "1"], [spec], handler=handler, mechanism=mechanism)
    assert run.outcome.status == 0
    return run


def _report(run: ProbedRun) -> dict[str, int]:
    return parse_report(run.outcome.stdout.decode())


def test_a_handler_sees_the_arguments_registers_and_return_address() -> None:
    # GIVEN a handler that notes what it sees
    seen: dict[str, object] = {}

    def note(hit: pu.Hit) -> None:
        seen["arguments"] = [hit.argument(n) for n in range(6)]
        seen["registers"] = (hit.registers.rdi, hit.registers.r9)
        seen["rip"] = hit.registers.rip == hit.address
        seen["return"] = int.from_bytes(hit.read(hit.registers.rsp, 8), "little") - hit.address
        seen["comm"] = hit.comm
        seen["label"] = hit.label
        seen["time"] = hit.time_ns > 0

    # WHEN six(1, 2, 3, 4, 5, 6) is called
    run = _calls("six", note)

    # THEN it saw them
    assert run.warnings == ()
    assert seen["arguments"] == [1, 2, 3, 4, 5, 6]
    assert seen["registers"] == (1, 6)
    assert seen["rip"] is True
    assert seen["comm"] == "calls"
    assert seen["label"] == "six"
    assert seen["time"] is True
    # AND the return address lies in main
    known = functions(build_target("calls.c"))
    from_main = known["six"].address + int(str(seen["return"])) - known["main"].address
    assert 0 < from_main < known["main"].size


@pytest.mark.parametrize("mechanism", ["auto", "emulate", "boost", "step"])
def test_registers_that_a_handler_assigns_are_the_programs(mechanism: str) -> None:
    def change(hit: pu.Hit) -> None:
        hit.registers.rdi = 9
        hit.registers.r9 = 0

    run = _calls("six", change, mechanism)
    assert run.warnings == ()
    assert _report(run)["six_returned"] == 54329


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_return_now_skips_the_function_with_the_value_given(mechanism: str) -> None:
    run = _calls("skipped", lambda hit: hit.return_now(-7), mechanism)
    assert _report(run)["skipped_returned"] == -7
    assert _report(run)["skipped_calls"] == 0
    assert run.hits == {"skipped": 1}


def test_memory_that_a_handler_writes_is_the_programs() -> None:
    def write(hit: pu.Hit) -> None:
        hit.write(hit.argument(0), b"written by us!!A")

    run = _calls("fill", write)
    assert _report(run)["fill_returned"] == ord("A")
    assert b"buffer written by us!!A" in run.outcome.stdout


def test_strings_are_read_up_to_their_end_even_at_the_edge_of_memory() -> None:
    seen = []
    run = _calls("length", lambda hit: seen.append(hit.read_string(hit.argument(0), 100)))
    assert run.warnings == ()
    assert seen == [b"twelve chars", b"edges"]


def test_a_string_is_cut_at_the_limit() -> None:
    seen = []
    _calls("length", lambda hit: seen.append(hit.read_string(hit.argument(0), 4)))
    assert [len(text) for text in seen] == [4, 4]


def test_pages_that_are_not_resident_or_not_readable_by_the_program_can_be_read() -> None:
    # GIVEN a handler that reads what it is told of
    seen: list[bytes | str] = []

    def read(hit: pu.Hit) -> None:
        try:
            seen.append(hit.read(hit.argument(0), min(hit.argument(1), 5000)))
        except errors.MemoryFault as fault:
            seen.append(f"fault at {fault.address:#x}")

    # WHEN it is called with never-touched pages, a PROT_NONE page, and nothing at all
    run = _calls("look", read)

    # THEN it reads the first two, and the third is an exception that it can catch
    assert run.warnings == ()
    assert seen[0] == b"f" * 5000
    assert isinstance(seen[1], bytes)
    assert seen[1].startswith(b"behind PROT_NONE\0")
    assert seen[2] == "fault at 0x8"


def test_reads_of_code_show_the_program_without_traps() -> None:
    # GIVEN the file's bytes at a probed function
    program = build_target("calls.c")
    seen = []
    run = _calls("six", lambda hit: seen.append(hit.read(hit.address, 16)))

    offset = file_offset(program, functions(program)["six"].address)
    assert seen == [program.read_bytes()[offset : offset + 16]]
    assert run.warnings == ()


def test_a_write_over_a_probed_instruction_is_refused_and_changes_nothing() -> None:
    # GIVEN a handler that would patch the code under its own probe
    refusals: list[str] = []

    def patch(hit: pu.Hit) -> None:
        try:
            hit.write(hit.address, b"\xc3")
        except ValueError as error:
            refusals.append(str(error))

    # WHEN it is called
    run = _calls("skipped", patch)

    # THEN it is told so, and the function is as it was
    assert len(refusals) == 1
    assert "under a probe" in refusals[0]
    assert _report(run)["skipped_returned"] == 41


def test_a_handler_that_raises_is_reported_once_counted_and_harms_nothing() -> None:
    # GIVEN a handler that always fails
    def fail(hit: pu.Hit) -> None:
        raise ZeroDivisionError("on purpose")

    plain = run_plain([build_target("calls.c"), "2"])

    # WHEN the program calls the function 200 times
    run = run_probed([build_target("calls.c"), "2"], ["tick"], handler=fail)

    # THEN all is as unprobed, all hits are counted, and one warning was given
    assert run.outcome == plain
    assert run.hits == {"tick": 200}
    assert len([text for text in run.warnings if "on purpose" in text]) == 1


def test_a_hit_that_is_kept_after_its_handler_says_so_when_it_is_used() -> None:
    kept: list[pu.Hit] = []
    _calls("six", kept.append)
    assert kept[0].tid > 0
    with pytest.raises(errors.HitIsOver):
        kept[0].read(kept[0].address, 1)


def test_two_probes_at_one_place_both_count_and_both_handlers_run_in_order() -> None:
    # GIVEN two probes of one function, one of its first instruction by address
    program = build_target("calls.c")
    order: list[str] = []
    with pu.launch([str(program), "1"]) as engine:
        first = engine.probe("six", lambda hit: order.append("first"))
        second = engine.probe("six", lambda hit: order.append("second"))
        third = engine.probe("six+0x0")

        # WHEN it is called
        result = engine.run(timeout=30)

    # THEN each saw it
    assert result.exit_status == 0
    assert order == ["first", "second"]
    assert (first.hits, second.hits, third.hits) == (1, 1, 1)


def test_a_handler_can_remove_and_disable_its_own_probe_and_add_others() -> None:
    program = build_target("calls.c")
    with pu.launch([str(program), "3"]) as engine:
        added: list[pu.Probe] = []

        def once(hit: pu.Hit) -> None:
            hit.probe.remove()
            added.append(engine.probe("tick"))

        def disable_at_ten(hit: pu.Hit) -> None:
            if hit.probe.hits == 10:
                hit.probe.enabled = False

        single = engine.probe("six", once)
        ten = engine.probe("tick", disable_at_ten)
        result = engine.run(timeout=30)

    assert result.exit_status == 0
    assert single.hits == 1
    assert ten.hits == 10
    assert added[0].hits == 300


def test_a_disabled_probe_counts_nothing_until_it_is_enabled() -> None:
    program = build_target("calls.c")
    with pu.launch([str(program), "2"]) as engine:
        quiet = engine.probe("tick")
        quiet.enabled = False

        def enable(hit: pu.Hit) -> None:
            quiet.enabled = hit.probe.hits == 2

        engine.probe("six", enable)
        result = engine.run(timeout=30)
    assert result.exit_status == 0
    assert quiet.hits == 100


def test_a_blocking_handler_stops_only_the_thread_that_hit() -> None:
    # GIVEN a server, one thread of which is held in a blocking handler
    with start_target(build_target("server.c"), "3") as target:
        engine = pu.attach(target.pid)
        entered, release = threading.Event(), threading.Event()
        held: list[int] = []

        def hold(hit: pu.Hit) -> None:
            if not held:
                held.append(hit.tid)
                entered.set()
                assert release.wait(30)

        others: set[int] = set()
        engine.probe("work", hold, blocking=True)
        free = engine.probe("more_work", lambda hit: others.add(hit.tid))
        engine.start()
        assert entered.wait(30)

        # WHEN it waits
        others.clear()
        at_hold = free.hits
        wait_until("the others work on", lambda: free.hits > at_hold + 300)

        # THEN it stands still, and goes on when the handler returns
        assert held[0] not in others
        release.set()
        wait_until("it works again", lambda: held[0] in others)
        engine.stop()
        assert target.finish().report == {
            "did_work": 1,
            "ticked": 1,
            "wrong": 0,
            "strange_rips": 0,
        }


def test_a_blocking_handler_can_do_all_that_others_can() -> None:
    program = build_target("calls.c")
    with pu.launch([str(program), "1"]) as engine:

        def change(hit: pu.Hit) -> None:
            assert hit.argument(1) == 2
            hit.registers.rdi = 8
            text = hit.read(hit.address, 4)
            assert len(text) == 4

        probe = engine.probe("six", change, blocking=True)
        skipped = engine.probe("skipped", lambda hit: hit.return_now(3), blocking=True)
        result = engine.run(timeout=30)
    assert result.exit_status == 0
    assert probe.handler_errors == 0
    assert (probe.hits, skipped.hits) == (1, 1)


def test_the_embedding_programs_own_children_are_left_alone() -> None:
    # GIVEN a child of ours that ends while an engine runs
    child = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(9)"])

    # WHEN a handler starts and waits for another
    statuses = []

    def spawn(hit: pu.Hit) -> None:
        statuses.append(subprocess.run(["/bin/sh", "-c", "exit 6"], check=False).returncode)

    run = _calls("six", spawn)

    # THEN nobody has taken their exit statuses from us
    assert run.warnings == ()
    assert statuses == [6]
    assert child.wait(30) == 9


def test_max_hits_detaches_and_the_program_goes_on() -> None:
    with start_target(build_target("server.c"), "2") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("work")
        result = engine.run(max_hits=100)
        ended = target.finish()
    assert result.ended == "max_hits"
    assert result.exit_status is None
    assert result.hits[probe] == 100
    assert ended.report == {"did_work": 1, "ticked": 1, "wrong": 0, "strange_rips": 0}


def test_interrupt_from_another_thread_ends_the_run_and_leaves_the_program_running() -> None:
    with start_target(build_target("server.c"), "2") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("work")

        def watch() -> None:
            wait_until("it is hit", lambda: probe.hits > 50)
            engine.interrupt()

        watcher = threading.Thread(target=watch)
        watcher.start()
        result = engine.run(timeout=60)
        watcher.join()
        assert result.ended == "interrupted"
        assert result.exit_status is None
        assert target.finish().report["wrong"] == 0
