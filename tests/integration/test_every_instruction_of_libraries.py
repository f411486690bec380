"""Probes on every instruction of many functions of real libraries leave the output as it was.

A seeded sample; the whole is `make every-instruction`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.every_instruction.code import code_ranges
from tests.every_instruction.trial import executed_functions, run_trial
from tests.every_instruction.workloads import WORKLOADS, Workload
from tests.support.build import build_target
from tests.support.elf_tools import functions, instruction_addresses

_SEED = 5
_SAMPLE = 700
_QUICK = {"date", "sha3", "deflate", "c++"}


@pytest.mark.parametrize("mechanism", ["auto", "step"])
@pytest.mark.parametrize(
    "workload", [w for w in WORKLOADS if w.name in _QUICK], ids=lambda workload: str(workload.name)
)
def test_output_and_status_are_as_without_probes(
    workload: Workload, mechanism: str, tmp_path: Path
) -> None:
    # GIVEN functions, drawn by a seed, that the program calls in the library
    chosen = executed_functions(workload, tmp_path, largest=400, sample=_SAMPLE, seed=_SEED)[:25]
    assert len(chosen) >= 10

    # WHEN each instruction of all of them is probed at once
    trial = run_trial(workload, chosen, tmp_path, mechanism)

    # THEN nobody can tell
    assert trial.differs == []


def test_a_function_without_its_symbol_is_found_with_all_of_its_instructions() -> None:
    # GIVEN a function, and its instructions by the symbol table
    program = build_target("hot_loop.c")
    hot = functions(program)["hot"]
    # WHEN the unwind table is read instead
    found = [code for code in code_ranges(program, 10_000) if code.start == hot.address]
    # THEN they are the same
    assert [list(code.instructions) for code in found] == [instruction_addresses(program, hot)]
