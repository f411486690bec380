"""A table that is asked for name after name makes an index, and its answers stay the same."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from ptrace_uprobes.addresses import FileOffset
from ptrace_uprobes.symbols.dynamic import Range
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.symbols.source import BytesSource, FileSource
from ptrace_uprobes.symbols.tables import SymbolTable
from tests.support.build import build_target
from tests.support.versioned import versioned_library


def _image(path: Path) -> Image:
    return Image(FileSource(str(path), str(path)), str(path))


def _programs() -> dict[str, Path]:
    return {
        "versions": versioned_library(),
        "C": build_target("threads.c"),
        "C++": build_target("names.cc", "-std=c++17", "-lstdc++"),
    }


@pytest.mark.parametrize("kind", ["versions", "C", "C++"])
def test_the_index_answers_as_the_search_does(kind: str) -> None:
    path = _programs()[kind]
    names = sorted(set(_image(path)._function_names()))[:150]
    names += ["", "no_such_name", "main", names[0][:-1], names[-1][1:], "main@V", "@", "\udcff"]
    indexed = _image(path)
    for number in range(20):
        indexed.lookup(f"nothing_{number}")
    tables = indexed._tables
    assert any(table._index is not None for table in tables)
    assert {n: indexed.lookup(n) for n in names} == {n: _image(path).lookup(n) for n in names}


def test_names_made_to_take_long_are_searched_for_without_an_index() -> None:
    # GIVEN 20,000 symbols whose names share one string of 60,000 letters
    count, letters = 20_000, 60_000
    strings = b"\0" + b"a" * letters + b"\0"
    entries = b"".join(
        struct.pack("<IBBHQQ", 1 + number % 1000, 2, 0, 1, 0x1000 + number, 1)
        for number in range(count)
    )
    table = SymbolTable(
        BytesSource(strings + entries, "hostile"),
        64,
        Range(FileOffset(len(strings)), len(entries)),
        Range(FileOffset(0), len(strings)),
    )
    # WHEN names are asked for, one after the other
    start = time.thread_time()
    for number in range(30):
        assert list(table.named(b"nothing_%d" % number)) == []
    # THEN it takes no second, and the right symbols are found
    assert time.thread_time() - start < 1
    found = list(table.named(b"a" * (letters - 7)))
    assert [entry.number for entry in found] == list(range(7, count, 1000))
