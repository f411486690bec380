"""Definitions in a file: one a line, comments, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptrace_uprobes.definition.definition_file import read_definitions
from ptrace_uprobes.errors import UsageError


def test_each_line_is_a_definition(tmp_path: Path) -> None:
    file = tmp_path / "probes"
    file.write_bytes(
        b"# what we watch\n\nlibc:malloc size=%di:u64   # bytes\r\n"
        b"\tuprobe:libc:free\n/srv/a#b:main\np:g/e /bin/sort:0x10 %di#x\n/srv/\xff:main\n"
    )
    assert read_definitions(str(file)) == [
        (3, "libc:malloc size=%di:u64"),
        (4, "uprobe:libc:free"),
        (5, "/srv/a#b:main"),
        (6, "p:g/e /bin/sort:0x10 %di#x"),
        (7, "/srv/\udcff:main"),
    ]


def test_an_error_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "probes"
    file.write_text("libc:malloc\n\nlibc:free %foo\n")
    with pytest.raises(UsageError, match=f"^{file}:3: .* at character 12: no register"):
        read_definitions(str(file))


@pytest.mark.parametrize("content", ["", "\n\n", "# only\n"])
def test_a_file_without_definitions_is_a_mistake(tmp_path: Path, content: str) -> None:
    file = tmp_path / "probes"
    file.write_text(content)
    with pytest.raises(UsageError, match="no definition"):
        read_definitions(str(file))


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_definitions(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="Is a directory"):
        read_definitions(str(tmp_path))
    with pytest.raises(UsageError, match="null"):
        read_definitions("a\0b")


def test_nonsense_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "probes"
    file.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UsageError, match=":1: "):
        read_definitions(str(file))
