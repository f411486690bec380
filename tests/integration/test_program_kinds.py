"""Every way to build and strip a program: its functions are found and counted."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from tests.support.build import BuildFailed, build_target
from tests.support.let_go import assert_let_go
from tests.support.probed import run_plain, run_probed
from tests.support.target import start_target

KINDS = {
    "pie": ("-fPIE", "-pie"),
    "non-pie": ("-fno-pie", "-no-pie"),
    "static": ("-static", "-no-pie"),
    "static-pie": ("-static-pie", "-fPIE"),
    "stripped-with-dynsym": ("-rdynamic", "-s"),
    "sysv-hash": ("-Wl,--hash-style=sysv",),
    "cet": ("-fcf-protection=full",),
    "optimised": ("-O3", "-fomit-frame-pointer"),
}


def _build(source: str, kind: str) -> Path:
    try:
        return build_target(source, *KINDS[kind])
    except BuildFailed as failure:
        pytest.skip(f"no {kind} programs can be built here: {failure}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_of_the_program_is_counted_when_it_is_launched(kind: str) -> None:
    program = _build("hot_loop.c", kind)
    plain = run_plain([program, "50"])
    probed = run_probed([program, "50"], ["hot"])
    assert probed.outcome == plain
    assert probed.hits == {"hot": 50}


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_of_the_program_is_counted_when_it_is_attached_to(kind: str) -> None:
    with start_target(_build("hot_loop.c", kind), "50") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("hot")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()
    assert ended.status == 0
    assert probe.hits == ended.report["hot"] == 50


@pytest.mark.parametrize("how", ["gnu_debuglink", "beside-in-.debug"])
def test_a_stripped_program_is_probed_by_its_separate_debug_file(how: str, tmp_path: Path) -> None:
    # GIVEN a program whose symbols are in another file
    program = Path(shutil.copy(build_target("hot_loop.c"), tmp_path / "hot_loop"))
    folder = tmp_path / ".debug" if how == "beside-in-.debug" else tmp_path
    folder.mkdir(exist_ok=True)
    debug = folder / "hot_loop.debug"
    subprocess.run(["objcopy", "--only-keep-debug", str(program), str(debug)], check=True)
    subprocess.run(
        ["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", str(program)], check=True
    )

    # WHEN its function is probed by name
    probed = run_probed([program, "30"], ["hot"])

    # THEN it is found
    assert probed.outcome.status == 0
    assert probed.hits == {"hot": 30}


def test_an_ifunc_symbol_means_the_implementation_that_the_program_uses() -> None:
    # GIVEN a program with an indirect function
    program = build_target("ifunc.c")
    plain = run_plain([program, "40"])

    # WHEN it is probed by its public name
    probed = run_probed([program, "40"], ["chosen", "other_implementation"])

    # THEN each call counts, and the resolver does not
    assert probed.outcome == plain
    assert probed.hits == {"chosen": 40, "other_implementation": 0}


def test_an_ifunc_of_libc_is_resolved_in_a_running_process() -> None:
    # GIVEN a running program
    with start_target(build_target("ifunc.c"), "25") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("libc:strlen")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN its calls of strlen are seen (libc's own may come on top)
    assert ended.status == 0
    assert probe.hits >= ended.report["strlen"]


def test_a_program_that_is_replaced_on_disk_while_it_runs_is_still_probed(tmp_path: Path) -> None:
    # GIVEN a running program whose file has been replaced by another
    program = Path(shutil.copy(build_target("hot_loop.c"), tmp_path / "program"))
    with start_target(program, "20") as target:
        program.unlink()
        shutil.copy(build_target("sleeper.c"), program)
        engine = pu.attach(target.pid)

        # WHEN it is probed by name
        probe = engine.probe("hot")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN the running program's own symbols were used
    assert ended.status == 0
    assert probe.hits == 20


@pytest.mark.parametrize("mode", ["kill", "errno"])
def test_a_sandboxed_process_that_may_not_map_memory_is_probed_and_lives(mode: str) -> None:
    # GIVEN a process whose seccomp filter forbids all but read, write and exit
    with start_target(build_target("sandboxed.c"), mode, "200") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("hot")
        engine.start()

        # WHEN it runs
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN the filter never fired on our account
    assert ended.status == 0
    assert probe.hits == ended.report["hot"] == 200


@pytest.mark.parametrize("mode", ["kill", "errno"])
@pytest.mark.parametrize("may_suspend", [True, False], ids=["root", "without-CAP_SYS_ADMIN"])
def test_a_sandboxed_process_has_many_probes_and_lives(
    mode: str, may_suspend: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the padding of its segments has room for."""
    if not may_suspend:
        monkeypatch.setattr("ptrace_uprobes.engine.seccomp._set_options", lambda *_: False)
    with start_target(build_target("sandboxed.c"), mode, "200") as target:
        before = Path(f"/proc/{target.pid}/maps").read_text()
        engine = pu.attach(target.pid, on_warning=lambda _: None)
        hot = engine.probe("hot")
        many = engine.probe("libc:[p-w]*")
        engine.start()
        if may_suspend and os.geteuid() == 0:
            assert Path(f"/proc/{target.pid}/maps").read_text() != before
        engine.stop()
        assert Path(f"/proc/{target.pid}/maps").read_text() == before
        assert_let_go(target)
        assert len(many.sites) > 300
        engine = pu.attach(target.pid, on_warning=lambda _: None)
        hot = engine.probe("hot")
        engine.probe("libc:[p-w]*")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()
    assert ended.status == 0
    assert hot.hits == ended.report["hot"] == 200


def test_the_programs_own_mappings_are_where_they_would_be_without_us() -> None:
    # GIVEN a program that prints where its next mappings and its heap go
    program = build_target("layout.c")
    plain = run_plain([program])

    # WHEN its functions are probed from the start
    probed = run_probed([program], ["main", "libc:mmap"])

    # THEN they go to the same places
    assert probed.outcome == plain
