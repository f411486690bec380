"""A tracer that dies, of whatever, leaves a program that goes on and is itself again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.doomed import (
    UNHARMED,
    altered,
    assert_whole_again,
    kill_many,
    kill_one_of_aloof_threads,
)
from tests.support.procfs import (
    descendants,
    process_state,
    status_fields,
    wait_until,
)
from tests.support.target import start_target
from tests.support.tracers import Tracers, tracers


@pytest.fixture
def started() -> Iterator[Tracers]:
    with tracers() as made:
        yield made


def test_a_program_under_load_survives_the_kill_of_its_tracer_at_any_moment(
    started: Tracers,
) -> None:
    kill_many(started, build_target("doomed.c"), 15, most=0.03)


@pytest.mark.soak
def test_it_does_a_thousand_times_of_a_thousand(started: Tracers) -> None:
    kill_many(started, build_target("doomed.c"), int(os.environ.get("KILLS", "1000")), most=0.1)


def test_it_survives_a_kill_while_it_is_attached_to_and_its_traps_are_written(
    started: Tracers,
) -> None:
    kill_many(started, build_target("doomed.c"), 8, most=0.2, planted=False)


@pytest.mark.soak
def test_it_does_hundreds_of_times(started: Tracers) -> None:
    kill_many(
        started,
        build_target("doomed.c"),
        int(os.environ.get("KILLS", "300")),
        most=0.4,
        planted=False,
    )


_DEATHS = {
    "os._exit in a handler": ("import os; os._exit(3)", 3),
    "os.abort in a handler": ("import os; os.abort()", 128 + signal.SIGABRT),
    "SIGSEGV in a handler": ("import ctypes; ctypes.string_at(0)", 128 + signal.SIGSEGV),
    "SIGHUP, as of a closed terminal": ("import os; os.kill(os.getpid(), 1)", 128 + signal.SIGHUP),
}


@pytest.mark.parametrize("death", _DEATHS)
def test_it_survives_the_other_deaths_of_a_tracer(started: Tracers, death: str) -> None:
    # GIVEN a tracer whose handler ends it, in the middle of a hit
    statement, status = _DEATHS[death]
    body = (
        "def die(hit):\n"
        "    hits.append(hit)\n"
        f"    if len(hits) == 200:\n        {statement}\n"
        "probe = lambda spec: engine.probe(spec, die)\n"
    )
    with start_target(build_target("doomed.c"), "4") as target:
        # WHEN that happens
        tracer = started.start(target.pid, ["hot_*"], wait=False, body=body)
        assert started.wait(tracer) == status

        # THEN the program does not notice
        assert_whole_again(target)
        assert target.finish().report == UNHARMED


@pytest.mark.parametrize(
    "statement", ["raise SystemExit(4)", "engine._thread.tracer.state.threads = None"], ids=repr
)
def test_a_fault_in_the_tracing_thread_detaches(started: Tracers, statement: str) -> None:
    body = (
        "def fail(hit):\n"
        "    hits.append(hit)\n"
        f"    if len(hits) == 200:\n        {statement}\n"
        "probe = lambda spec: engine.probe(spec, fail)\n"
    )
    with start_target(build_target("doomed.c"), "4") as target:
        tracer = started.start(target.pid, ["hot_*"], body=body)
        # Without its tables not even the rescue works: then the guardian is asked to.
        assert_whole_again(target)
        assert process_state(tracer) in "SR"
        assert target.finish().report == UNHARMED


def test_it_survives_a_kill_while_handlers_hold_threads(started: Tracers) -> None:
    body = (
        "import time\n"
        "probe = lambda spec: engine.probe(spec, lambda hit: time.sleep(0.01), blocking=True)\n"
    )
    with start_target(build_target("doomed.c"), "8") as target:
        tracer = started.start(target.pid, ["hot_*"], body=body)
        time.sleep(0.1)
        started.kill(tracer)
        assert_whole_again(target)
        assert target.finish().report == UNHARMED


@pytest.mark.parametrize("moment", [0.05, 0.08, 0.13, 0.21, 0.34])
def test_it_survives_a_kill_while_traps_come_and_go_and_it_is_let_go_of(
    started: Tracers, moment: float
) -> None:
    body = (
        "import os\n"
        "engine.stop()\n"
        "os.write(1, b'tracing\\n')\n"
        "while True:\n"
        "    with pu.attach({pid}) as engine:\n"
        "        engine.probe('hot_00*')\n"
        "        engine.start()\n"
        "        engine.probe('hot_99*').remove()\n"
    )
    with start_target(build_target("doomed.c"), "4") as target:
        tracer = started.start(target.pid, [], body=body.format(pid=target.pid))
        time.sleep(moment)
        started.kill(tracer)
        assert_whole_again(target)
        assert target.finish().report == UNHARMED


@pytest.mark.parametrize("mode", ["fork", "exec"])
@pytest.mark.parametrize("follow", [False, True], ids=["left", "followed"])
def test_children_that_come_and_go_survive_it_too(
    started: Tracers, mode: str, follow: bool
) -> None:
    for moment in (0.03, 0.11):
        with start_target(build_target("forker.c"), mode) as target:
            tracer = started.start(target.pid, ["hot"], follow_forks=follow)
            time.sleep(moment)
            started.kill(tracer)
            assert_whole_again(target)
            assert target.finish().report == UNHARMED


@pytest.mark.parametrize("way", ["handles", "ignores", "blocks"])
def test_where_sigtrap_is_the_programs_own_that_is_said_and_the_guardian_restores(
    way: str,
) -> None:
    with (
        tempfile.TemporaryFile("w+") as stderr,
        tracers(stderr=stderr) as started,
        start_target(build_target("trap_owner.c"), way) as target,
    ):
        tracer = started.start(target.pid, ["hot"])
        assert altered(target.pid)
        started.kill(tracer)
        assert_whole_again(target)
        target.go()
        assert target.finish().report == {"value": 16, "handled": 0}
        stderr.seek(0)
        # Twice: the tracer that was only to read the symbols said it as well.
        assert 1 <= stderr.read().count("no safety net") <= 2


def test_threads_that_block_all_signals_take_the_last_resort_away_for_a_moment_only(
    started: Tracers,
) -> None:
    kill_one_of_aloof_threads(started, build_target("doomed.c"))


def test_where_seccomp_forbids_it_that_is_said_and_the_guardian_restores() -> None:
    with (
        tempfile.TemporaryFile("w+") as stderr,
        tracers(stderr=stderr) as started,
        start_target(build_target("sandboxed.c"), "kill", "50") as target,
    ):
        tracer = started.start(target.pid, ["hot"])
        started.kill(tracer)
        # Slots in padding, where the file has zeros, stay.
        wait_until(
            "its trap is out",
            lambda: not [one for one in altered(target.pid) if one[2] and one[3] == 0xCC],
        )
        target.go()
        assert target.finish().report["hot"] == 50
        stderr.seek(0)
        assert "no safety net: a seccomp filter is in force" in stderr.read()


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "killed"])
def test_a_breakpoint_of_the_programs_own_kills_it_as_without_us(
    started: Tracers, alive: bool
) -> None:
    with start_target(build_target("trap_owner.c"), "default") as target:
        tracer = started.start(target.pid, ["hot"])
        if not alive:
            started.kill(tracer)
            assert_whole_again(target)
        target.go()
        assert target.finish().status == 128 + signal.SIGTRAP


def guardians() -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if b"guardian_main" in file.read():
                    found.add(int(name))
    return found


def test_a_guardian_that_is_killed_is_replaced() -> None:
    with (
        tempfile.TemporaryFile("w+") as stderr,
        tracers(stderr=stderr) as started,
        start_target(build_target("doomed.c"), "4") as target,
    ):
        tracer = started.start(target.pid, ["hot_*"])
        first = {pid for pid in descendants(tracer) if pid in guardians()}
        assert len(first) == 1
        os.kill(first.pop(), signal.SIGKILL)
        wait_until(
            "there is another",
            lambda: bool({pid for pid in descendants(tracer) if pid in guardians()}),
        )
        wait_until(
            "it has been said",
            lambda: "another one now" in Path(f"/proc/self/fd/{stderr.fileno()}").read_text(),
        )
        started.kill(tracer)
        assert_whole_again(target)
        assert target.finish().report == UNHARMED


def test_a_guardian_that_ends_while_it_starts_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN an interpreter that ends after traps have been written, and before it has begun
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nsleep 0.6\nexit 1\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    warnings: list[str] = []
    with start_target(build_target("doomed.c"), "2") as target:
        with pu.attach(target.pid, on_warning=warnings.append) as engine:
            probe = engine.probe("hot_9*")
            engine.start()
            assert len(altered(target.pid)) > 50
            # WHEN others take its place, and end as well
            wait_until("it has been said", lambda: any("no guardian" in one for one in warnings))
            # THEN probes come and go as ever
            engine.probe("hot_10*")
            probe.remove()
        assert not altered(target.pid)
        assert target.finish().report == UNHARMED


def test_a_tracer_that_comes_later_finds_a_program_like_any_other(started: Tracers) -> None:
    # GIVEN a program whose tracer was killed, twice
    with start_target(build_target("doomed.c"), "4") as target:
        for _ in range(2):
            started.kill(started.start(target.pid, ["hot_*"]))
            assert_whole_again(target)

        # WHEN one detaches from it
        with pu.attach(target.pid) as engine:
            probe = engine.probe("hot_000")
            engine.start()
            wait_until("it is hit", lambda: probe.hits > 10)
        assert engine.warnings == []

        # THEN not even the action for SIGTRAP is left
        assert not int(status_fields(target.pid)["SigCgt"], 16) >> (signal.SIGTRAP - 1) & 1
        assert_whole_again(target)
        assert target.finish().report == UNHARMED
