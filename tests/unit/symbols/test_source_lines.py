"""Where the lines of a source file begin, against readelf and gdb; and damaged line tables."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ptrace_uprobes.symbols.image import Image, open_image
from ptrace_uprobes.symbols.line_program import run_program
from ptrace_uprobes.symbols.line_units import units_of
from tests.support.build import TARGETS, build_target

_LINES = range(1, len((TARGETS / "lines.c").read_text().split("\n")) + 1)
_BUILDS = ["-O0 -gdwarf-2", "-O0 -gdwarf-4", "-O1 -gdwarf-3", "-O2 -gdwarf-5", "-O2 -gz"]


def _image(program: Path) -> Image:
    return open_image(str(program))


def _addresses(program: Path, line: int) -> set[int]:
    table = _image(program).line_table
    assert table is not None
    return set(table.find("lines.c", line).addresses)


def _by_readelf(program: Path) -> dict[int, set[int]]:
    """The first row that is a statement of each run of rows of one line."""
    listing = subprocess.run(
        ["readelf", "-wL", program], check=True, capture_output=True, text=True
    ).stdout
    rows = re.findall(r"^(\S+) +(\d+|-) +(0x[0-9a-f]+|0)\S*(?: +\d+)?( +x)?", listing, re.M)
    begins: dict[int, set[int]] = {}
    before, taken = None, False
    for file, number, address, statement in rows:
        here = (file, number)
        if here != before:
            taken = False
        before = None if number == "-" else here
        if file == "lines.c" and number != "-" and statement and not taken:
            taken = True
            begins.setdefault(int(number), set()).add(int(address, 16))
    return begins


@pytest.mark.parametrize("flags", _BUILDS)
def test_each_line_begins_where_readelf_says(flags: str) -> None:
    program = build_target("lines.c", *flags.split())
    expected = _by_readelf(program)
    assert len(expected) > 15
    found = {line: _addresses(program, line) for line in _LINES}
    assert {line: places for line, places in found.items() if places} == expected


@pytest.mark.parametrize("flags", ["-O0 -gdwarf-4", "-O2 -gdwarf-5"])
def test_gdb_breaks_at_places_that_are_ours_too(flags: str) -> None:
    gdb = shutil.which("gdb") or pytest.skip("gdb is not installed")
    program = build_target("lines.c", *flags.split())
    # Where a function opens gdb goes on to behind its prologue.
    text = (TARGETS / "lines.c").read_text().split("\n")
    inside = [line for line in _LINES if text[line - 1].startswith("    ")]
    asked = [word for line in inside for word in ("-ex", f"break lines.c:{line}")]
    listing = subprocess.run(
        [gdb, "-nx", "-q", "-batch", *asked, "-ex", "info breakpoints", program],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    places = re.findall(r"(0x[0-9a-f]{16}) in .*lines\.c:(\d+)", listing)
    assert len(places) > 15
    for address, line in places:
        assert int(address, 16) in _addresses(program, int(line)), (address, line)


def test_a_file_is_named_by_the_end_of_its_path() -> None:
    program = build_target("lines.c", "-O0", "-gdwarf-5")
    table = _image(program).line_table
    assert table is not None
    line = 8
    answer = table.find("lines.c", line)
    whole = answer.addresses
    assert whole
    (path,) = answer.files
    for name in (path, "targets/lines.c", "./targets/../targets/lines.c"):
        assert table.find(name, line).addresses == whole
    for name in ("ines.c", "rgets/lines.c", "/lines.c", "lines.c/lines.c"):
        assert table.find(name, line).addresses == ()
        assert table.find(name, line).files == ()
    assert "lines.c" in table.names()


def test_a_line_without_code_has_neighbours() -> None:
    table = _image(build_target("lines.c", "-O0", "-gdwarf-4")).line_table
    assert table is not None
    answer = table.find("lines.c", 2)
    assert (answer.addresses, len(answer.files), len(answer.near)) == ((), 1, 1)
    assert table.find("lines.c", answer.near[0]).addresses


def test_a_program_without_debug_information_has_no_table() -> None:
    assert _image(build_target("lines.c", "-g0", "-s")).line_table is None


@pytest.mark.parametrize("flags", ["-O0 -gdwarf-4", "-O2 -gdwarf-5"])
def test_a_damaged_line_table_gives_what_it_gives(flags: str, tmp_path: Path) -> None:
    # GIVEN the sections of a real program
    program = build_target("lines.c", *flags.split())
    sections = []
    for name in (".debug_line", ".debug_line_str", ".debug_str"):
        file = tmp_path / name
        command = ["objcopy", "-O", "binary", f"--only-section={name}", "--set-section-flags"]
        subprocess.run([*command, f"{name}=alloc", program, file], check=True)
        sections.append(file.read_bytes() if file.exists() else b"")
    chance = random.Random(1)
    for _ in range(300):
        # WHEN bytes of them are others, or missing
        line, line_strings, strings = (bytearray(section) for section in sections)
        for _ in range(chance.randrange(1, 6)):
            line[chance.randrange(len(line))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        cut = bytes(line[: chance.randrange(len(line))]) if chance.random() < 0.3 else bytes(line)

        # THEN whatever can be read is read
        for unit in units_of(cut, bytes(line_strings), bytes(strings)):
            lines: set[int] = set()
            for address in run_program(cut, unit, unit.files, 8, lines):
                assert address >= 0
