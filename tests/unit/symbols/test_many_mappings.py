"""The work for a process with many mappings grows as their number does: counted, not timed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ptrace_uprobes.addresses import FileOffset, VirtAddr
from ptrace_uprobes.errors import NotPermitted
from ptrace_uprobes.linux import maps
from ptrace_uprobes.linux.maps import Mapping, read_maps
from ptrace_uprobes.ssol.scratch import candidate_places
from ptrace_uprobes.symbols import image, modules
from ptrace_uprobes.symbols.modules import modules_of
from tests.support.elf_writer import TEXT, ElfSymbol, write_elf

_BASE = 0x7000_0000_0000
_PAGE = 4096


class _Counted(Sequence[Mapping]):
    """Mappings that count how often one is looked at."""

    def __init__(self, mappings: list[Mapping]) -> None:
        self._mappings = mappings
        self.looks = 0

    def __len__(self) -> int:
        return len(self._mappings)

    def __getitem__(self, index: int) -> Mapping:  # type: ignore[override]  # no slices
        self.looks += 1
        return self._mappings[index]

    def __iter__(self) -> Iterator[Mapping]:
        for mapping in self._mappings:
            self.looks += 1
            yield mapping


def _mappings(paths: list[str], count: int, *, inode: int = 1) -> list[Mapping]:
    """Each file mapped again and again, its first page executable; `inode`s are those of none."""
    return [
        Mapping(
            start=VirtAddr(_BASE + 2 * index * _PAGE),
            end=VirtAddr(_BASE + (2 * index + 1) * _PAGE),
            permissions="r-xp",
            offset=FileOffset(0 if index % 2 else TEXT),
            device="00:7f",
            inode=inode,
            path=paths[index % len(paths)],
            deleted=False,
        )
        for index in range(count)
    ]


def _work(
    count: int, paths: list[str], content: bytes, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int, int]:
    """How often mappings were looked at, files opened, and memory read."""
    opened = reads = 0
    real = image.open_image

    def open_image(path: str, *, name: str | None = None, root: str = "") -> object:
        nonlocal opened
        opened += 1
        return real(path, name=name, root=root)

    def read_memory(address: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        return content[:size].ljust(size, b"\0")

    monkeypatch.setattr(modules, "open_image", open_image)
    counted = _Counted(_mappings(paths, count))
    modules_of(os.getpid(), counted, read_memory)
    monkeypatch.undo()
    return counted.looks, opened, reads


@pytest.mark.parametrize("kind", ["program", "no ELF file", "missing"])
def test_modules_are_found_in_one_pass(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN files whose identity the maps file has otherwise, as on overlayfs
    content = write_elf([ElfSymbol("f", TEXT)]) if kind == "program" else b"no program"
    paths = [str(tmp_path / f"file{number}") for number in range(3)]
    for path in paths if kind != "missing" else ():
        Path(path).write_bytes(content)

    few, many = (_work(count, paths, content, monkeypatch) for count in (300, 3000))

    # THEN ten times as many mappings are ten times the looks, and no file is opened again
    assert many[0] <= 10 * few[0] + 100
    assert many[1] == few[1] <= 3 * len(paths)
    assert many[2] == few[2]


class _Number(int):
    """Counts how often it is compared with another."""

    comparisons = 0

    def _count(self) -> None:
        _Number.comparisons += 1

    def __le__(self, other: int) -> bool:
        self._count()
        return int(self) <= int(other)

    def __lt__(self, other: int) -> bool:
        self._count()
        return int(self) < int(other)

    def __ge__(self, other: int) -> bool:
        self._count()
        return int(self) >= int(other)

    def __gt__(self, other: int) -> bool:
        self._count()
        return int(self) > int(other)


def _number(value: int) -> VirtAddr:
    return VirtAddr(_Number(value))


def test_places_for_slots_are_found_without_holding_each_hole_against_every_other() -> None:
    def comparisons(count: int) -> int:
        # GIVEN holes that are all too small
        wall = [
            dataclasses.replace(m, start=_number(m.start), end=_number(m.end))
            for m in _mappings(["/f"], count)
        ]
        _Number.comparisons = 0
        sum(1 for _ in candidate_places(wall, wall[0].start, wall[-1].end, 16 * _PAGE, 8 << 20))
        return _Number.comparisons

    few, many = comparisons(200), comparisons(2000)
    assert few > 200
    assert many < 20 * few


def test_mappings_that_may_not_be_read_are_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(maps, "open", refuse, raising=False)
    with pytest.raises(NotPermitted, match="its mappings may not be read") as caught:
        read_maps(4711)
    assert caught.value.pid == 4711
    assert "\n" not in str(caught.value)
