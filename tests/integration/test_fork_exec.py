"""Families of processes: followed they are counted whole, unfollowed they run clean."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes import errors
from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report, start_target

MODES = ["tree", "vfork", "spawn", "chain", "thread-chain", "daemon", "shared-space", "killed"]


@pytest.mark.parametrize("mechanism", ["auto", "step"])
@pytest.mark.parametrize("mode", MODES)
def test_with_follow_forks_every_hit_of_the_whole_family_is_counted(
    mode: str, mechanism: str
) -> None:
    # GIVEN a family that counts its own executions in shared memory
    program = build_target("forks.c")

    # WHEN all of it is followed
    probed = run_probed(
        [program, mode, "4"], ["work", "parent_work"], follow_forks=True, mechanism=mechanism
    )
    report = parse_report(probed.outcome.stdout.decode())

    # THEN the counts agree, and every exit status was what the family expected
    assert probed.outcome.status == 11
    assert report["unexpected"] == 0
    assert probed.hits == {"work": report["work"], "parent_work": report["parent_work"]}
    assert not any(probed.missed.values())


@pytest.mark.parametrize("mode", MODES)
def test_without_follow_forks_children_run_clean_and_the_first_process_is_counted(
    mode: str,
) -> None:
    # GIVEN the same family
    program = build_target("forks.c")
    plain = run_plain([program, mode, "4"])

    # WHEN only the first process is probed
    probed = run_probed([program, mode, "4"], ["work", "parent_work"])
    report = parse_report(probed.outcome.stdout.decode())

    # THEN no child died of a trap, and the first process's own hits are all there
    assert probed.outcome == plain
    assert report["unexpected"] == 0
    assert probed.hits["parent_work"] == report["parent_work"]


def test_attached_processes_are_followed_through_forks() -> None:
    with start_target(build_target("forks.c"), "tree", "3") as target:
        engine = pu.attach(target.pid, follow_forks=True)
        probe = engine.probe("work")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()
    assert ended.status == 11
    assert probe.hits == ended.report["work"]


def test_each_hit_names_the_process_and_thread_that_made_it() -> None:
    # GIVEN a handler that notes who hits
    pids: set[int] = set()

    def note(hit: pu.Hit) -> None:
        pids.add(hit.pid)
        assert hit.tid == hit.pid

    # WHEN a tree of 15 processes runs
    probed = run_probed(
        [build_target("forks.c"), "tree", "3"], ["work"], follow_forks=True, handler=note
    )

    # THEN it saw each of them, and the handler's own check never failed
    assert len(pids) == 15
    assert probed.warnings == ()


def test_a_shell_pipeline_is_followed_through_every_exec(tmp_path: Path) -> None:
    # GIVEN a pipeline whose last member prints how often its function ran
    program = build_target("hot_loop.c")
    script = f"{program} 10 | cat | sort; exec {program} 20"
    plain = run_plain(["/bin/sh", "-c", script])

    # WHEN the shell is probed for a function that only these have
    probed = run_probed(["/bin/sh", "-c", script], [f"{program}:hot"], follow_forks=True)

    # THEN it is planted in each image as it comes
    assert probed.outcome == plain
    assert probed.hits == {f"{program}:hot": 30}


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["tree", "killed", "vfork", "shared-space"])
def test_large_families_are_counted_whole(mode: str) -> None:
    size = "7" if mode == "tree" else "600"
    probed = run_probed(
        [build_target("forks.c"), mode, size], ["work", "parent_work"], follow_forks=True
    )
    report = parse_report(probed.outcome.stdout.decode())
    assert probed.outcome.status == 11
    assert report["unexpected"] == 0
    assert probed.hits == {"work": report["work"], "parent_work": report["parent_work"]}


def test_attaching_again_and_again_to_a_program_that_execs_leaves_it_no_trap() -> None:
    # GIVEN a process that runs one program after another
    with start_target("/usr/bin/env", *["env"] * 300, "echo", "fine", wait=False) as target:
        # WHEN it is attached to and let go of, wherever in its execs it may be
        while True:
            try:
                engine = pu.attach(target.pid, on_warning=lambda _: None)
            except pu.UprobesError:
                break  # it has ended
            # It may end, or be without its libraries, at any of these.
            with contextlib.suppress(pu.UprobesError):
                engine.probe("libc:getenv")
                engine.start()
            with contextlib.suppress(pu.UprobesError):
                engine.stop()
        ended = target.finish()

    # THEN none of its programs met a trap that nobody serves
    assert (ended.status, ended.stdout) == (0, "fine\n")


def test_probes_come_and_go_in_a_program_that_forks_all_the_time() -> None:
    # GIVEN a process that most often is in fork or wait, whose events take an interrupt along
    with start_target("/bin/sh", "-c", "while :; do (:); done", wait=False) as target:
        engine = pu.attach(target.pid, on_warning=lambda _: None)
        engine.start()

        # WHEN it is stopped for each of many probes, to run the resolver of an IFUNC in it
        for _ in range(1000):
            engine.probe("libc:strlen").remove()
        engine.stop()

        # THEN each stop has come, and it lives
        target.signal(signal.SIGTERM)
        assert target.finish().status == 128 + signal.SIGTERM


def test_programs_that_begin_while_a_probe_is_added_live() -> None:
    """A child that came to the end of its loading in that moment was taken for a launched program
    that lacks the probe's place, and killed."""
    # GIVEN a shell that runs one program after the other
    script = "while read line; do /bin/true || echo died; done"
    with subprocess.Popen(
        ["sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as shell:
        assert shell.stdin is not None
        warnings: list[str] = []
        with pu.attach(shell.pid, follow_forks=True, on_warning=warnings.append) as engine:
            engine.start()
            # WHEN probes come and go meanwhile, one after the other
            shell.stdin.write(b"\n" * 60)
            shell.stdin.close()
            while engine.running:
                with contextlib.suppress(errors.EngineStopped):
                    engine.probe("libc:free").remove()
            result = engine.result()
        assert shell.stdout is not None
        said = shell.stdout.read()

    # THEN each of them ends as without us
    assert said == b""
    assert (shell.returncode, result.not_found) == (0, {})
