"""Every row of real files is what readelf(1) prints of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptrace_uprobes.symbols.image import open_image
from ptrace_uprobes.unwind.row import Kind, Row
from ptrace_uprobes.unwind.tables import ImageTables
from tests.support.build import build_target

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")

_NAMES = {
    **dict(enumerate(("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp"))),
    **{number: f"r{number}" for number in range(8, 16)},
    16: "ra",
}
_FDE = re.compile(r"^[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)")
_MOST = 6000


def _rows(path: Path, section: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The address and the columns of each row that readelf prints, of FDEs only."""
    text = subprocess.run(
        ["readelf", "-wN", "--debug-dump=frames-interp", "-W", str(path)],
        check=True,
        capture_output=True,
        text=True,
        errors="replace",
    ).stdout
    columns: list[str] = []
    wanted = is_fde = False
    for line in text.splitlines():
        if line.startswith("Contents of the "):
            wanted = f" {section} " in line
        elif " CIE " in line or " FDE " in line:
            match = _FDE.match(line)
            is_fde = match is not None and match.group(1) != match.group(2)
        elif "LOC" in line:
            columns = line.split()
        elif wanted and is_fde and re.match(r"^[0-9a-f]{16} ", line):
            values = line.split()
            if len(values) == len(columns):
                yield int(values[0], 16), dict(zip(columns[1:], values[1:], strict=True))


def _as_readelf(row: Row, columns: dict[str, str]) -> dict[str, str]:
    if row.cfa_expression is not None:
        said = {"CFA": "exp"}
    else:
        said = {"CFA": f"{_NAMES[row.cfa_register]}{row.cfa_offset:+d}"}
    for number, name in _NAMES.items():
        if name not in columns:
            continue
        rule = row.rules.get(number)
        if rule is None:
            # What has no rule keeps its value: readelf prints that, and a lost one, as "u".
            said[name] = "u"
        elif rule[0] == Kind.OFFSET:
            said[name] = f"c{rule[1]:+d}"
        elif rule[0] == Kind.VALUE_OFFSET:
            said[name] = f"v{rule[1]:+d}"
        elif rule[0] == Kind.UNDEFINED:
            said[name] = "u"
        elif rule[0] == Kind.EXPRESSION:
            said[name] = "exp"
        else:
            said[name] = "vexp"
    return said


def _compare(path: Path, section: str, most: int = _MOST) -> int:
    image = open_image(str(path))
    tables = ImageTables(image)
    count = 0
    for address, columns in _rows(path, section):
        if address == 0:
            continue
        row = tables.row_at(address)
        assert isinstance(row, Row), (hex(address), row)
        theirs = {k: "u" if v == "s" else v for k, v in columns.items()}
        assert _as_readelf(row, columns) == theirs, hex(address)
        count += 1
        if count == most:
            break
    return count


def _libc() -> Path:
    out = subprocess.run(["ldd", "/bin/sh"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"=> (/\S*libc\.so\.6)", out)
    assert match is not None
    return Path(match.group(1))


def test_of_a_program_without_frame_pointers() -> None:
    target = build_target("stacks.c", "-O2", "-fomit-frame-pointer")
    assert _compare(target, ".eh_frame") > 60


def test_of_a_program_that_has_debug_frames_only() -> None:
    flags = ("-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    target = build_target("stacks.c", "-O2", "-fomit-frame-pointer", *flags)
    assert _compare(target, ".debug_frame") > 60


def test_of_a_program_whose_debug_frames_are_compressed() -> None:
    flags = ("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-gz=zlib")
    target = build_target("stacks.c", "-O2", "-fomit-frame-pointer", *flags)
    assert _compare(target, ".debug_frame") > 60


def test_of_a_program_without_a_search_table() -> None:
    flags = ("-Wl,--no-eh-frame-hdr", "-static")
    target = build_target("stacks.c", "-O2", "-fomit-frame-pointer", *flags)
    assert open_image(str(target)).call_frames.index is None
    assert _compare(target, ".eh_frame", 500) == 500


def test_of_the_c_library() -> None:
    assert _compare(_libc(), ".eh_frame") == _MOST
