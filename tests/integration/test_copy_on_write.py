"""Traps lie in private copies of pages: the file, and other processes, never see them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.copies import libraries_of, private_copy
from tests.support.elf_tools import file_offset, functions
from tests.support.procfs import altered_text, wait_until
from tests.support.target import start_target


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_process_of_the_same_program_is_untouched() -> None:
    # GIVEN two processes that map the same file
    program = build_target("server.c")
    before = _digest(program)
    with start_target(program, "2") as probed, start_target(program, "2") as other:
        # WHEN one is probed
        engine = pu.attach(probed.pid)
        probe = engine.probe("work")
        engine.start()
        wait_until("it is hit", lambda: probe.hits > 100)

        # THEN the trap is one byte in that one's memory, and nowhere else
        offset = file_offset(program, functions(program)["work"].address)
        assert [(at, seen) for _, at, _, seen in altered_text(probed.pid)] == [(offset, 0xCC)]
        assert altered_text(other.pid) == []
        assert _digest(program) == before
        engine.stop()
        assert altered_text(probed.pid) == []
        for target in (probed, other):
            assert target.finish().report == {
                "did_work": 1,
                "ticked": 1,
                "wrong": 0,
                "strange_rips": 0,
            }
    assert _digest(program) == before


def test_a_library_probed_in_every_function_is_untouched_on_disk_and_elsewhere(
    tmp_path: Path,
) -> None:
    # GIVEN two processes with a libc of their own
    program = build_target("sleeper.c")
    copy = private_copy(program, tmp_path / "copy", "libc.", copy_program=False)
    libc = next(iter(copy.libraries.values()))
    before = _digest(libc)
    with (
        start_target(program, environment=copy.environment) as probed,
        start_target(program, environment=copy.environment) as other,
    ):
        # WHEN all of it is probed in one of them
        with pu.attach(probed.pid) as engine:
            engine.probe("libc:*")
            engine.run(timeout=0.05)

            # THEN the other, and the file, are as they were
            assert altered_text(other.pid) == []
            assert _digest(libc) == before
        assert altered_text(probed.pid) == []
        assert probed.finish().status == other.finish().status == 5
    assert libraries_of(program)["libc.so.6"] != libc


def test_a_child_that_is_not_followed_has_clean_pages() -> None:
    # GIVEN a program that forks, and whose children check nothing but run the probed code
    with start_target(build_target("forks.c"), "tree", "2") as target:
        engine = pu.attach(target.pid)
        engine.probe("work")
        engine.start()

        # WHEN it forks
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN every child ran through the site and lived
    assert ended.status == 11
    assert ended.report["unexpected"] == 0
