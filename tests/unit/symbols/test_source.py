"""Bytes are there exactly as asked for, or `UnreadableElf` says why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptrace_uprobes.addresses import FileOffset, VirtAddr
from ptrace_uprobes.errors import MemoryFault, UnreadableElf
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.symbols.source import BytesSource, FileSource, MemorySource, chunks


def _mapping(start: int, size: int, offset: int) -> Mapping:
    return Mapping(
        VirtAddr(start),
        VirtAddr(start + size),
        "r--p",
        FileOffset(offset),
        "8:1",
        5,
        "/lib/x",
        False,
    )


@pytest.mark.parametrize(("offset", "size"), [(0, 11), (10, 1), (-1, 1), (0, -1), (1 << 64, 1)])
def test_nothing_outside_a_file_is_read(tmp_path: Path, offset: int, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    file = FileSource(str(path), "file")

    for source in (file, BytesSource(b"0123456789", "bytes")):
        assert source.read(2, 3) == b"234"
        with pytest.raises(UnreadableElf, match="cut short"):
            source.read(offset, size)
    file.close()


def test_a_file_that_is_cut_short_while_open_does_not_kill_us(tmp_path: Path) -> None:
    # GIVEN an open file, where a mapping of it would now be a SIGBUS
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    source = FileSource(str(path), "file")
    os.truncate(path, 100)

    with pytest.raises(UnreadableElf, match="cut short"):
        source.read(5000, 10)
    source.close()


def test_what_is_no_regular_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    for path, why in (
        (tmp_path / "fifo", "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "missing", "No such file"),
        (Path("/dev/zero"), "not a regular file"),
        (Path("nul\0nul"), "null"),
    ):
        with pytest.raises(UnreadableElf, match=why):
            FileSource(str(path), "name")


def test_memory_is_read_where_the_file_is_mapped() -> None:
    # GIVEN the first and the third page of a file in memory
    memory = {0x10000: b"A" * 4096, 0x30000: b"C" * 4096}

    def read(address: int, size: int) -> bytes:
        page = address & ~0xFFF
        if page not in memory:
            raise MemoryFault(address, size)
        return memory[page][address - page :][:size]

    source = MemorySource(read, [_mapping(0x10000, 4096, 0), _mapping(0x30000, 4096, 8192)], "x")

    assert source.size == 12288
    assert source.read(4090, 6) == b"AAAAAA"
    assert source.read(8192, 2) == b"CC"
    assert [source.available(offset) for offset in (0, 4090, 4096, 8200)] == [4096, 6, 0, 4088]
    for offset, size in ((4096, 1), (4090, 10), (12288, 1)):
        with pytest.raises(UnreadableElf, match="cut short"):
            source.read(offset, size)


def test_memory_that_cannot_be_read_is_unreadable() -> None:
    def read(address: int, size: int) -> bytes:
        raise MemoryFault(address, size)

    with pytest.raises(UnreadableElf, match="no memory to access at 0x10000"):
        MemorySource(read, [_mapping(0x10000, 4096, 0)], "x").read(0, 16)


def test_chunks_are_whole_units() -> None:
    source = BytesSource(bytes(3_000_000), "x")

    pieces = list(chunks(source, 0, 2_400_000, 24))

    assert len(pieces) > 1
    assert sum(len(piece) for _, piece in pieces) == 2_400_000
    assert all(len(piece) % 24 == 0 for _, piece in pieces)
    assert [start for start, _ in pieces] == list(range(0, 2_400_000, len(pieces[0][1])))
