"""The loop that counts hits, in C and in Python: the same counts, whatever else happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes.engine import counting, hits, loop
from tests.support.build import build_target
from tests.support.elf_tools import functions, instruction_addresses
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report

_SHARED = ["shared", "brief", "on_timer"]


@pytest.fixture(params=["c", "python"])
def serve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(loop, "serve", counting.serve_in_python)
        monkeypatch.setattr(hits, "go_on", counting.go_on_in_python)
    elif counting.serve is counting.serve_in_python:
        pytest.skip("the loop in C was not built, or is switched off")
    return str(request.param)


def test_the_loop_in_c_is_used_where_it_can_be_built() -> None:
    if os.environ.get(counting.PURE_PYTHON_VARIABLE):
        pytest.skip("it is switched off")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if shutil.which("cc") is None or not headers.exists():
        pytest.skip("no C compiler, or no headers of Python")
    assert counting.serve is not counting.serve_in_python


def test_it_can_be_switched_off() -> None:
    code = "from ptrace_uprobes.engine import counting as c; print(c.serve is c.serve_in_python)"
    environment = {**os.environ, counting.PURE_PYTHON_VARIABLE: "1"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout == "True\n"


@pytest.mark.usefixtures("serve")
def test_threads_that_a_timer_interrupts_are_counted_exactly() -> None:
    specs = [*_SHARED, *(f"own_{number}" for number in range(6))]
    probed = run_probed([build_target("threads.c"), "6", "500"], specs)
    report = parse_report(probed.outcome.stdout.decode())

    assert probed.outcome.status == 0
    assert report["strange_rips"] == 0
    assert probed.hits == {spec: report[spec] for spec in specs}
    assert not any(probed.missed.values())


@pytest.mark.usefixtures("serve")
def test_handlers_run_once_per_hit_of_every_thread() -> None:
    threads: dict[int, int] = {}

    def note(hit: pu.Hit) -> None:
        threads[hit.tid] = threads.get(hit.tid, 0) + 1

    specs = [f"own_{number}" for number in range(4)]
    probed = run_probed([build_target("threads.c"), "4", "200"], specs, handler=note)

    assert probed.outcome.status == 0
    assert sorted(threads.values()) == [200] * 4


@pytest.mark.usefixtures("serve")
def test_instructions_of_one_byte_are_counted_and_told_from_traps_of_the_program() -> None:
    # GIVEN a program that raises SIGTRAP and executes int3 of its own, and its functions' entries
    program = build_target("signals.c")
    plain = run_plain([program, "5"])
    probed_function = functions(program)["probed"]
    places = [
        f"probed+{address - probed_function.address:#x}"
        for address in instruction_addresses(program, probed_function)
    ]

    # WHEN each instruction of one is probed (`ret` among them) as it runs
    probed = run_probed([program, "5"], [*places, "on_trap"])

    # THEN it says what it says without us, and each was counted as often as the function was called
    report = parse_report(plain.stdout.decode())
    assert probed.outcome == plain
    assert probed.hits.pop("on_trap") == report["on_trap"]
    assert probed.hits == dict.fromkeys(places, report["probed"])
