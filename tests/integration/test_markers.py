"""USDT markers, against what the program prints of itself, readelf, and the kernel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.command import run
from tests.support.copies import private_copy
from tests.support.kernel_events import (
    Planted,
    events_of,
    new_group,
    planted_in_kernel,
    recorded,
    run_comparably,
)
from tests.support.oracle import require_tracefs
from tests.support.thirty_two import build_32

_ARGUMENTS = (
    "n=arg0:s32 element=$arg2:s64 letter=arg2:u8 constant=arg3:s16 counter=arg4:s32 "
    "text=+0(arg5):string high=arg6:u8"
)
_NAMES = ("n", "element", "letter", "constant", "counter", "text", "high")


def _build(kind: str) -> Path:
    if kind == "32":
        return build_32("markers.c")
    return build_target("markers.c", kind)


def _cxx(folder: Path) -> Path:
    compiler = shutil.which("g++") or pytest.skip("g++ is not installed")
    source = folder / "throws.cc"
    source.write_text(
        "#include <cstdio>\n#include <stdexcept>\nint main() {\n  int caught = 0;\n"
        "  for (int n = 0; n < 7; n++)\n    try {\n      if (n % 3) throw n;\n"
        '      throw std::runtime_error("three");\n    } catch (int) {\n      caught++;\n'
        "    } catch (std::exception &) {\n      caught++;\n    }\n"
        '  std::printf("%d\\n", caught);\n}\n'
    )
    program = folder / "throws"
    subprocess.run([compiler, "-O1", "-o", program, source], check=True)
    return program


def _notes(file: Path) -> set[tuple[str, int]]:
    """Each marker's name, and its address, as readelf has it."""
    listing = subprocess.run(["readelf", "-nW", file], check=True, capture_output=True, text=True)
    found = re.findall(
        r"Provider: (\S+)\n\s*Name: (\S+)\n\s*Location: 0x([0-9a-f]+)", listing.stdout
    )
    return {(f"{provider}:{name}", int(place, 16)) for provider, name, place in found}


@pytest.mark.parametrize("kind", ["-O0", "-O3", "32"])
def test_arguments_are_what_the_program_prints(kind: str) -> None:
    # GIVEN a program with markers whose arguments are operands of every kind, built so that they
    # are registers, the stack, constants
    program = _build(kind)

    # WHEN they are recorded
    probe = f"usdt:{program}:tests:each {_ARGUMENTS}"
    both = f"usdt:{program}:twice value=arg0:s64"
    done = run("-e", probe, "-e", both, "--", program)

    # THEN each hit has what the program says of it; a marker at two places is hit at both
    assert done.status == 0, done.stderr
    expected = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line[:5] == "each "]
    found = []
    for line in re.findall(r": tests:each: \(0x\w+\) (.*)", done.stderr):
        values = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
        found.append(" ".join(values[name].strip('"') for name in _NAMES))
    assert len(found) == 6
    assert found == expected
    assert re.findall(r": tests:twice: \(0x\w+\) value=(\S+)", done.stderr) == ["5", "-1000"]


def test_a_filter_and_a_name_look_at_the_markers_arguments() -> None:
    program = _build("-O1")
    spec = f"usdt:{program}:t*:e* n=arg0:s32 element=arg1:s64"
    done = run("-e", spec, "--filter", "element <= -3000 && n != 4", "--", program)
    assert re.findall(r"n=(\d) element=(\S+)", done.stderr) == [("3", "-3000"), ("5", "-5000")]


@pytest.mark.parametrize("kind", ["-O1", "32"])
def test_a_markers_semaphore_counts_the_probe_while_it_is_there(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # GIVEN code that is run only while somebody looks
    program = _build(kind)

    # WHEN somebody does, for three hits
    with pu.launch([str(program)]) as engine:
        seen: list[int] = []

        @engine.probe(f"usdt:{program}:guarded:each arg0:u32")
        def look(hit: pu.Hit) -> None:
            seen.append(int(str(hit.args["arg0"])))
            if len(seen) == 3:
                look.remove()

        other = engine.probe(f"usdt:{program}:tests:each")
        result = engine.run(timeout=30)

    # THEN it has run three times
    assert (result.exit_status, seen, result.hits[other]) == (0, [0, 1, 2], 6)
    assert "prepared 3\n" in capfd.readouterr().out


def test_markers_are_where_readelf_finds_them(tmp_path: Path) -> None:
    program = _cxx(tmp_path)
    done = run("--explain", "-e", "usdt:libstdc++:*:*", "--", program)
    if "no USDT marker" in done.stderr:
        pytest.skip("this libstdc++ has no markers")
    rows = re.findall(r": (0x[0-9a-f]+) (/\S+?):(\w+:\w+): 90: nop", done.stdout)
    expected = _notes(Path(rows[0][1]))
    assert len(expected) >= 3
    base = int(rows[0][0], 16) - next(at for label, at in expected if label == rows[0][2])
    assert {(label, int(address, 16) - base) for address, _, label in rows} == expected


def test_exceptions_of_a_cxx_program_are_recorded_as_by_the_kernel(tmp_path: Path) -> None:
    require_tracefs()
    # GIVEN a C++ program that throws, and a libstdc++ that nobody else runs
    copy = private_copy(_cxx(tmp_path), tmp_path / "copy", "libstdc++.", copy_program=True)
    (library,) = copy.libraries.values()
    if not _notes(library):
        pytest.skip("this libstdc++ has no markers")
    specs = [f"usdt:{library}:libstdcxx:throw o=arg0 t=arg1", f"usdt:{library}:catch o=arg0 t=arg1"]
    asked = [word for spec in specs for word in ("-e", spec)]

    # WHEN the kernel records the lines that --emit prints, and we the markers
    emitted = run("--emit", "kernel", *asked, "--", copy.program, env=copy.environment)
    assert emitted.status == 0, emitted.stderr
    group = new_group()
    lines = [
        line.replace("p:ptrace_uprobes/", f"p:{group}/") for line in emitted.stdout.splitlines()
    ]
    argv = [str(copy.program)]
    with planted_in_kernel([Planted(line) for line in lines]) as instance:
        plain = run_comparably(argv, env=copy.environment)
        expected = [(event.name, event.text) for event in recorded(instance)]
    ours = tmp_path / "ours.txt"
    probed = run_comparably(
        argv,
        env=copy.environment,
        before=[sys.executable, "-m", "ptrace_uprobes", "-o", str(ours), *asked, "--"],
    )

    # THEN both have each throw and each catch, with the same object and the same type
    text = ours.read_text().replace(" libstdcxx:", " libstdcxx_")
    assert [(event.name, event.text) for event in events_of(text)] == expected
    assert len(expected) == 14
    assert probed.stdout == plain.stdout == b"7\n"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            "usdt:PROGRAM:tests:eahc",
            "no USDT marker 'tests:eahc' in markers; there are: tests:each",
        ),
        ("usdt:PROGRAM:other:each", "there are: guarded:each, tests:each"),
        ("usdt:libc:PROGRAM", "cannot be part of a marker's name"),
        ("usdt:PROGRAM:twice a=arg1", "the marker has 1 argument, so that there is no arg1"),
        ("usdt:PROGRAM:tests:each a=+0(arg7)", "arg7 is at '4@nowhere', which is not understood"),
    ],
)
def test_what_a_marker_does_not_have_is_said(spec: str, why: str) -> None:
    program = _build("-O1")
    done = run("-e", spec.replace("PROGRAM", str(program)), "--", program)
    assert done.status in (1, 2)
    assert done.stdout == ""
    assert why in done.stderr


def test_what_the_kernel_cannot_fetch_at_a_marker_is_refused_by_name() -> None:
    program = _build("-O1")

    def emitted(arguments: str) -> tuple[str, str]:
        done = run("--emit", "kernel", "-e", f"usdt:{program}:{arguments}", "--", program)
        return done.stdout, done.stderr

    assert "no fetcharg of the kernel's reaches" in emitted("tests:each a=arg1:s64")[1]
    assert "a has 32 bits at this marker; write a:s32" in emitted("tests:each a=arg0")[1]
    assert "no fetcharg of the kernel's reaches" in emitted("tests:each a=arg6:u8")[1]
    line, error = emitted("guarded:each a=arg0:u32")
    assert error == ""
    assert re.fullmatch(r"p:ptrace_uprobes/guarded_each \S+:0x\w+\(0x\w+\) a=%\w+:u32\n", line)


def test_data_at_a_marker_is_refused() -> None:
    program = _build("-O1")
    done = run("-e", f"usdt:{program}:twice", "--request", "data", "--length", "8", "--", program)
    assert (done.status, done.stdout) == (2, "")
    assert "a marker is in the middle of a function" in done.error
