"""However many files are read, few are open; and a file is that one or none."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.descriptors import MOST_OPEN
from ptrace_uprobes.symbols.source import FileSource

_MANY = 3 * MOST_OPEN


def _open_below(folder: Path) -> int:
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{number}").startswith(str(folder))
        except FileNotFoundError:
            continue  # the one that lists them
    return count


def _sources(folder: Path) -> list[FileSource]:
    sources = []
    for number in range(_MANY):
        path = folder / str(number)
        path.write_text(f"file {number:04}")
        sources.append(FileSource(str(path), path.name))
    return sources


def test_many_files_are_read_through_a_few_descriptors(tmp_path: Path) -> None:
    sources = _sources(tmp_path)
    for _ in range(2):
        for number, source in enumerate(sources):
            assert source.read(5, 4) == f"{number:04}".encode()
            assert source.is_unchanged()
    assert 0 < _open_below(tmp_path) <= MOST_OPEN
    sources.clear()
    del source
    gc.collect()
    assert _open_below(tmp_path) == 0


@pytest.mark.parametrize("how", ["replaced", "gone"])
def test_a_file_that_was_closed_is_never_taken_for_another(how: str, tmp_path: Path) -> None:
    sources = _sources(tmp_path)
    first = tmp_path / "0"
    kept = tmp_path / "kept"
    first.rename(kept)  # so that its inode is not used again
    if how == "replaced":
        first.write_text("file 9999")
    with pytest.raises(UnreadableElf, match=r"taken its place|No such file"):
        sources[0].read(5, 4)
    assert not sources[0].is_unchanged()
    assert sources[-1].read(5, 4) == f"{_MANY - 1:04}".encode()


def test_a_file_that_was_just_opened_is_read_after_it_was_unlinked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    source = FileSource(str(path), "file")
    path.unlink()
    assert source.read(0, 7) == b"content"
    assert source.is_unchanged()


def test_a_file_that_was_written_to_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    source = FileSource(str(path), "file")
    path.write_text("contents")
    assert not source.is_unchanged()
