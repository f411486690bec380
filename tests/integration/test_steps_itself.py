"""A program that single-steps itself is stopped where it would be."""

from __future__ import annotations

import pytest

from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed

_HITS = {
    "site_move": 2,
    "site_call": 2,
    "site_indirect": 2,
    "site_jump": 2,
    "site_away": 2,
    "site_string": 10,  # a handler returns to it between its iterations
}


@pytest.mark.parametrize("kind", ["-pie", "-no-pie"])  # below 4 GiB slots have a guard
@pytest.mark.parametrize("site", _HITS)
def test_a_program_that_sets_the_trap_flag_is_stopped_after_each_instruction(
    site: str, kind: str
) -> None:
    # GIVEN a program that tells where its own traps find it
    program = build_target("steps_itself.c", kind)
    plain = run_plain([program])
    assert plain.status == 0
    assert plain.stdout.count(b"trap at") > 10

    # WHEN an instruction in that stretch is probed
    probed = run_probed([program], [site])

    # THEN it tells the same, and the instruction was hit as often as it was come to
    assert probed.outcome.stdout.decode().splitlines() == plain.stdout.decode().splitlines()
    assert probed.outcome == plain
    assert probed.hits == {site: _HITS[site]}
