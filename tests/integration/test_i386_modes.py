"""Code of the mode that its program is not of: executed right and counted, or missed by name."""

from __future__ import annotations

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed
from tests.support.procfs import altered_text, wait_until
from tests.support.target import parse_report, start_target
from tests.support.thirty_two import FIXED, build_32

MECHANISMS = ["auto", "emulate", "boost", "step"]


def _program(bits: int) -> str:
    build_32("modes.c", *FIXED)  # skips where there is no 32-bit code
    program = build_target("modes.c", *FIXED) if bits == 64 else build_32("modes.c", *FIXED)
    return str(program)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_an_instruction_is_executed_as_the_mode_has_it_that_runs_it(
    bits: int, mechanism: str
) -> None:
    # GIVEN a program that calls the same bytes in both modes
    program = _program(bits)
    plain = run_plain([program, "40"])
    report = parse_report(plain.stdout.decode())
    assert report == {"both": 80, "wrong": 0}

    # WHEN they are probed
    probed = run_probed([program, "40"], ["both", "behind", "call_other"], mechanism=mechanism)

    # THEN each execution reads its own mode's cell, and is counted
    assert probed.outcome == plain
    assert probed.hits == {"both": 80, "behind": 80, "call_other": 40}
    assert not any(probed.missed.values())
    assert probed.warnings == ()


@pytest.mark.parametrize("bits", [64, 32])
def test_a_handler_is_shown_the_registers_of_the_mode_that_hit(bits: int) -> None:
    modes: list[str] = []

    def note(hit: pu.Hit) -> None:
        modes.append(hit.registers.architecture.name)

    probed = run_probed([_program(bits), "3"], ["both"], handler=note)
    own, other = ("x86_64", "i386") if bits == 64 else ("i386", "x86_64")
    assert modes == [own, other] * 3
    assert probed.outcome.stdout == b"both 6\nwrong 0\n"


@pytest.mark.parametrize("bits", [64, 32])
def test_fetchargs_of_the_other_mode_are_missed_with_the_cause(bits: int) -> None:
    # GIVEN a fetcharg, which means what the program's own ABI says
    with pu.launch([_program(bits), "3"]) as engine:
        values: list[object] = []
        probe = engine.probe("both how=%dx:u32", lambda hit: values.append(hit.args["how"]))
        result = engine.run(timeout=60)

    # THEN those hits are counted as missed
    assert result.exit_status == 0
    assert values == [0, 0, 0]
    assert (probe.hits, probe.missed) == (3, 3)
    (cause,) = probe.missed_causes
    assert "other mode" in cause


@pytest.mark.parametrize("mechanism", ["boost", "step"])
@pytest.mark.parametrize("bits", [64, 32])
def test_detaching_while_code_of_both_modes_hits_leaves_it_right(bits: int, mechanism: str) -> None:
    with start_target(_program(bits), "6000000") as target:
        for _ in range(3):
            engine = pu.attach(target.pid, mechanism=mechanism)
            probe = engine.probe("both")
            engine.start()
            if not probe.hits:
                target.go()
            wait_until("hits", lambda probe=probe: probe.hits > 100)  # type: ignore[misc]
            engine.stop()
        assert altered_text(target.pid) == []
        ended = target.finish()
    assert ended.status == 0
    assert ended.report == {"both": 12000000, "wrong": 0}
