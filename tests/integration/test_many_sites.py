"""Sites that are planted one by one all find room, however many come."""

from __future__ import annotations

import pytest

from ptrace_uprobes.engine import regions
from ptrace_uprobes.ssol.scratch import PAGE
from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed

_FUNCTIONS = "abcdefghij"
_STARTS = range(0, 200, 4)
"""Of the instructions in a function of many_sites.c."""


def test_more_regions_are_had_than_places_are_tried_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN small regions, of which many are needed
    monkeypatch.setattr(regions, "_SMALLEST", PAGE)
    monkeypatch.setattr(regions, "_MOST_DOUBLINGS", 0)
    monkeypatch.setattr(regions, "_MOST_TRIED", 3)
    program = build_target("many_sites.c")
    plain = run_plain([program])
    # WHEN each instruction of all functions is probed, one after the other
    specs = [f"many_{name}+{start:#x}" for name in _FUNCTIONS for start in _STARTS]
    probed = run_probed([program], specs, mechanism="boost")
    # THEN every one has its slot and its hit
    assert probed.mechanisms == {"boost": len(specs)}
    assert probed.hits == dict.fromkeys(specs, 1)
    assert probed.outcome == plain
