"""`file.c:42`: a hit each time that the line is reached, as the program itself counts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.build import TARGETS, build_target
from tests.support.command import run
from tests.support.target import parse_report
from tests.support.thirty_two import build_32

_SOURCE = TARGETS / "lines.c"


def _line(mark: str) -> int:
    lines = _SOURCE.read_text().split("\n")
    return next(number for number, text in enumerate(lines, 1) if f"/* @{mark} */" in text)


def _build(flags: str) -> Path:
    words = flags.split()
    return build_32("lines.c") if words == ["32"] else build_target("lines.c", *words)


@pytest.mark.parametrize(
    "flags", ["-O0 -gdwarf-4", "-O0 -gdwarf-5 -gz", "-O2", "-O2 -gdwarf-2", "32"]
)
def test_a_line_is_hit_as_often_as_the_program_reaches_it(flags: str) -> None:
    # GIVEN a program that counts how often its lines are reached; one of them was inlined, twice
    # into one function
    program = _build(flags)
    # An optimized loop is not entered at its head.
    marks = ["bodies", "branches", "inlined", *(["heads"] if "-O0" in flags else [])]

    # WHEN they are probed
    asked = [word for mark in marks for word in ("-e", f"lines.c:{_line(mark)}")]
    done = run("--count", *asked, "--", program)

    # THEN the counts are the same
    assert done.status == 0, done.stderr
    report = parse_report(done.stdout)
    counts = dict(re.findall(r"^  lines\.c:(\d+) +(\d+) hits?", done.stderr, re.M))
    assert {mark: int(counts[str(_line(mark))]) for mark in marks} == {
        mark: report[mark] for mark in marks
    }


def test_hits_of_a_line_say_its_name_and_have_fetchargs_and_a_stack() -> None:
    program = _build("-O0 -gdwarf-4")
    spec = f"{program}:targets/lines.c:{_line('branches')} at=%ip"
    done = run("-e", spec, "--request", "stack", "--filter", "common_pid > 0", "--", program)
    found = re.findall(
        rf": targets/lines\.c:{_line('branches')}: \((0x\w+)\) at=(0x\w+)\n => work\+0x\w+ ",
        done.stderr,
    )
    assert len(found) == 3
    assert all(address == at for address, at in found)


def test_lines_of_a_program_whose_debug_file_is_apart(tmp_path: Path) -> None:
    # GIVEN a stripped program, with a debug file beside it
    program = Path(shutil.copy(_build("-O0 -gdwarf-4"), tmp_path / "lines"))
    debug = tmp_path / "lines.debug"
    for words in (
        f"objcopy --only-keep-debug {program} {debug}",
        f"strip -g {program}",
        f"objcopy --add-gnu-debuglink={debug} {program}",
    ):
        subprocess.run(words.split(), check=True)
    spec = f"lines:lines.c:{_line('bodies')}"
    assert f"{spec}  15 hits" in run("--count", "-e", spec, "--", program).stderr

    # WHEN that is gone
    debug.unlink()

    # THEN the error says what is missing, and nothing is run
    done = run("--count", "-e", spec, "--", program)
    assert (done.status, done.stdout) == (1, "")
    assert done.error == (
        "lines says nothing of source lines: it was built without -g, or its debug file is not "
        "installed"
    )


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("lines.c:4000", "line 4000 of lines.c has no code in lines; the closest that has is"),
        ("lines.c:2", "line 2 of lines.c has no code in lines; the closest that has is"),
        ("line.c:2", "no source file 'line.c' in lines; close names: lines.c"),
        (
            "elsewhere/lines.c:8",
            "no source file 'elsewhere/lines.c' in lines; close names: lines.c",
        ),
    ],
)
def test_a_line_that_is_none_is_said_before_the_program_runs(place: str, why: str) -> None:
    program = _build("-O0 -gdwarf-4")
    done = run("-e", f"{program}:{place}", "--", program)
    assert (done.status, done.stdout) == (1, "")
    assert done.error.startswith(why)


def test_the_kernel_is_given_each_place_of_a_line() -> None:
    program = _build("-O2")
    spec = f"{program}:lines.c:{_line('inlined')}"
    plans = run("--explain", "-e", spec, "--", program).stdout.splitlines()
    lines = run("--emit", "kernel", "-e", spec, "--", program).stdout.splitlines()
    assert len(plans) == len(lines) >= 3
    names = {line.split(" ")[0] for line in lines}
    assert len(names) == len(lines)
    assert all(re.fullmatch(r"p:ptrace_uprobes/lines_c_\d+(_\d)?", name) for name in names)
