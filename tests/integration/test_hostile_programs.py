"""Programs that are hard on a tracer: counted to the truth, and otherwise as without us."""

from __future__ import annotations

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.let_go import assert_let_go
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report, start_target

MODES = {
    "int3": 40,
    "int3-handler": 40,
    "sigaltstack": 40,
    "makecontext": 60,
    "threads": 800,
    "vforks": 60,
    "ptrace": 12,
    "rewritten": 60,
    "moved-text": 60,
    "huge-data": 60,
    "trap": 40,
    "no-mmap": 60,
    "no-new-privs": 60,
    "undumpable": 60,
    "strict": 60,
}


@pytest.mark.parametrize("mechanism", ["auto", "step"])
@pytest.mark.parametrize("mode", MODES)
def test_launched_it_is_counted_and_does_as_it_would(mode: str, mechanism: str) -> None:
    # GIVEN a program that counts its own calls
    argv = [str(build_target("hostile.c")), mode, str(MODES[mode])]
    plain = run_plain(argv)
    assert plain.status == 6

    # WHEN it runs under a probe
    probed = run_probed(argv, ["hot"], mechanism=mechanism)

    # THEN it does what it does alone, and the counts agree
    assert probed.outcome.stdout.decode() == plain.stdout.decode()
    assert probed.outcome == plain
    assert probed.hits == {"hot": parse_report(plain.stdout.decode())["hot"]}


@pytest.mark.parametrize("mode", MODES)
def test_attached_to_it_is_counted_and_left_as_it_was(mode: str) -> None:
    program = build_target("hostile.c")
    plain = run_plain([program, mode, str(MODES[mode])])
    with start_target(program, mode, str(MODES[mode])) as target:
        # GIVEN a process that was attached to once and left
        with pu.attach(target.pid, on_warning=lambda _: None) as engine:
            engine.probe("hot")
            engine.run(timeout=0.01)
        assert_let_go(target)

        # WHEN it is attached to again and goes on
        engine = pu.attach(target.pid)
        probe = engine.probe("hot")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN it does what it does alone, and the counts agree
    assert (ended.status, ended.stdout) == (plain.status, plain.stdout.decode())
    assert probe.hits == ended.report["hot"]
