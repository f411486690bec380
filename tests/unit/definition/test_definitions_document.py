"""The examples of docs/definitions.md are definitions and filters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.definition.definition_file import read_definitions

DOCUMENT = Path(__file__).parents[3] / "docs" / "definitions.md"


def _text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def test_the_file_of_definitions_is_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```\n(.*?)```", _text(), re.DOTALL)
    file = tmp_path / "probes"
    file.write_text(block)
    first, second, third = (parse_definition(text) for _, text in read_definitions(str(file)))
    assert [one.name for one in first.fetchargs] == ["size"]
    assert second.is_return
    assert (third.group, third.event) == ("libc", "getenv")


def test_the_example_of_each_notation_is_understood() -> None:
    examples = re.findall(r"^\| (?:ours|bpftrace's|the kernel's) \|.*\| `(.*)` \|$", _text(), re.M)
    assert len({parse_definition(example).notation for example in examples}) == 3


@pytest.mark.parametrize(
    ("heading", "row"), [("| source |", 0), ("| type |", 1)], ids=["sources", "types"]
)
def test_what_the_tables_name_is_understood(heading: str, row: int) -> None:
    table = _text().split(heading)[1].split("\n\n")[0]
    named = [
        cell for line in table.split("\n") for cell in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]
    placeholders = {"OFFSET": "8", "OFFS": "8", "SOURCE": "%di", "ADDR": "1"}
    placeholders |= {
        "stackN": "stack1",
        "WIDTH": "3",
        "SHIFT": "5",
        "BITS": "32",
        "argN": "arg1",
        "[N]": "",
    }
    for text in named:
        shown = text
        for placeholder, value in placeholders.items():
            shown = shown.replace(placeholder, value)
        if row and shown:
            shown = f"%xmm0:{shown}" if shown.startswith("f") else f"+0(%di):{shown}"
        parse_definition(f"f{'%return' if '$retval' in shown else ''} {shown}")


def test_the_filter_is_understood() -> None:
    (example,) = re.findall(r"event filters: `(.*)`", _text())
    parse_filter(example)
