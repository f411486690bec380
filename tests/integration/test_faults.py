"""A probed instruction that faults does so at its own address, with its own si_addr."""

from __future__ import annotations

import pytest

from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report


@pytest.mark.parametrize("mechanism", ["auto", "emulate", "boost", "step"])
def test_handlers_of_faults_see_the_original_address_and_can_mend_and_retry(mechanism: str) -> None:
    # GIVEN a program whose handler prints all it is shown of each fault
    program = build_target("faults.c")
    plain = run_plain([program])
    assert plain.status == 0
    sites = [name for name in parse_report(plain.stdout.decode()) if name.startswith("site_")]
    assert len(sites) == 21

    # WHEN every instruction that faults is probed
    probed = run_probed([program], sites, mechanism=mechanism)

    # THEN it prints the same, and an instruction that is retried is hit again
    assert probed.outcome.stdout.decode().splitlines() == plain.stdout.decode().splitlines()
    assert probed.outcome == plain
    report = parse_report(plain.stdout.decode())
    assert probed.hits == {site: report[site] for site in sites}


@pytest.mark.parametrize("mechanism", ["auto", "step"])
@pytest.mark.parametrize(
    "name", ["load", "call", "divide", "ud2", "hlt", "jump", "x87", "relative"]
)
def test_a_fault_without_a_handler_kills_with_the_same_signal(name: str, mechanism: str) -> None:
    # GIVEN a program that commits one fault
    program = build_target("faults.c")
    plain = run_plain([program, "fatal", name])
    assert plain.status in {128 + 4, 128 + 8, 128 + 11}

    # WHEN the instruction is probed
    probed = run_probed([program, "fatal", name], [f"site_{name}"], mechanism=mechanism)

    # THEN it dies as it would
    assert probed.outcome == plain
    assert probed.hits == {f"site_{name}": 1}


def test_the_program_may_execute_its_own_breakpoints() -> None:
    # GIVEN a program with an int3 of its own and a handler for it (signals.c does this each round)
    program = build_target("signals.c")

    # WHEN the function next to it is probed
    probed = run_probed([program, "2"], ["main", "on_trap"])

    # THEN its trap is its own
    report = parse_report(probed.outcome.stdout.decode())
    assert probed.outcome.status == 0
    assert report["bad_rip"] == report["bad_code"] == 0
    assert probed.hits["on_trap"] == report["on_trap"]
