"""A program that single-steps itself is stopped where it would be."""

from __future__ import annotations

import pytest

from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed

_SITES = ["site_move", "site_call", "site_indirect", "site_jump"]


@pytest.mark.parametrize("site", _SITES)
def test_a_program_that_sets_the_trap_flag_is_stopped_after_each_instruction(site: str) -> None:
    # GIVEN a program that tells where its own traps find it
    program = build_target("steps_itself.c")
    plain = run_plain([program])
    assert plain.status == 0
    assert plain.stdout.count(b"trap at") > 10

    # WHEN an instruction in that stretch is probed
    probed = run_probed([program], [site])

    # THEN it tells the same, and the instruction was hit once
    assert probed.outcome.stdout.decode().splitlines() == plain.stdout.decode().splitlines()
    assert probed.outcome == plain
    assert probed.hits == {site: 1}
