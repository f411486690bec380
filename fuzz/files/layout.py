"""Where the parts of an ELF file are, for those who mean to damage it.

An oracle of its own: nothing is imported from the readers that are to be tested.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

__all__ = ["Layout", "Table", "frame_entries", "layout_of"]

# name: (offset, size) in a header, of 32 and of 64 bits (System V ABI, chapter 4)
_FILE = {
    32: {
        "class": (4, 1),
        "encoding": (5, 1),
        "type": (16, 2),
        "machine": (18, 2),
        "entry": (24, 4),
        "phoff": (28, 4),
        "shoff": (32, 4),
        "phentsize": (42, 2),
        "phnum": (44, 2),
        "shentsize": (46, 2),
        "shnum": (48, 2),
        "shstrndx": (50, 2),
    },
    64: {
        "class": (4, 1),
        "encoding": (5, 1),
        "type": (16, 2),
        "machine": (18, 2),
        "entry": (24, 8),
        "phoff": (32, 8),
        "shoff": (40, 8),
        "phentsize": (54, 2),
        "phnum": (56, 2),
        "shentsize": (58, 2),
        "shnum": (60, 2),
        "shstrndx": (62, 2),
    },
}
_SEGMENT = {
    32: {
        "type": (0, 4),
        "offset": (4, 4),
        "address": (8, 4),
        "file_size": (16, 4),
        "memory_size": (20, 4),
        "flags": (24, 4),
        "align": (28, 4),
    },
    64: {
        "type": (0, 4),
        "flags": (4, 4),
        "offset": (8, 8),
        "address": (16, 8),
        "file_size": (32, 8),
        "memory_size": (40, 8),
        "align": (48, 8),
    },
}
_SECTION = {
    32: {
        "name": (0, 4),
        "type": (4, 4),
        "flags": (8, 4),
        "address": (12, 4),
        "offset": (16, 4),
        "size": (20, 4),
        "link": (24, 4),
        "info": (28, 4),
        "align": (32, 4),
        "entsize": (36, 4),
    },
    64: {
        "name": (0, 4),
        "type": (4, 4),
        "flags": (8, 8),
        "address": (16, 8),
        "offset": (24, 8),
        "size": (32, 8),
        "link": (40, 4),
        "info": (44, 4),
        "align": (48, 8),
        "entsize": (56, 8),
    },
}
_SYMBOL = {
    32: {"name": (0, 4), "value": (4, 4), "size": (8, 4), "info": (12, 1), "section": (14, 2)},
    64: {"name": (0, 4), "info": (4, 1), "section": (6, 2), "value": (8, 8), "size": (16, 8)},
}
_DYNAMIC = {32: {"tag": (0, 4), "value": (4, 4)}, 64: {"tag": (0, 8), "value": (8, 8)}}
_STRIDE = {
    32: {"segment": 32, "section": 40, "symbol": 16, "dynamic": 8},
    64: {"segment": 56, "section": 64, "symbol": 24, "dynamic": 16},
}
_SHT = {"symtab": 2, "dynsym": 11, "note": 7, "hash": 5, "gnu_hash": 0x6FFFFFF6}
_SHT |= {"verdef": 0x6FFFFFFD, "versym": 0x6FFFFFFF, "dynamic": 6}


@dataclass(slots=True)
class Table:
    """Records of one form, one behind the other."""

    at: int
    count: int
    stride: int
    fields: dict[str, tuple[int, int]]

    def place(self, index: int, name: str) -> tuple[int, int]:
        """Where a field is, and of how many bytes."""
        offset, size = self.fields[name]
        return self.at + index * self.stride + offset, size

    def get(self, data: bytes | bytearray, index: int, name: str) -> int:
        at, size = self.place(index, name)
        return int.from_bytes(data[at : at + size], "little")

    def put(self, data: bytearray, index: int, name: str, value: int) -> None:
        at, size = self.place(index, name)
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


@dataclass(slots=True)
class Layout:
    """The parts that there are; ranges are (offset, size)."""

    bits: int
    file: Table
    segments: Table
    sections: Table
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By the section's name."""
    tables: dict[str, Table] = field(default_factory=dict)
    """`symtab`, `dynsym` and `dynamic`."""

    def part_of_kind(self, data: bytes, kind: str) -> tuple[int, int] | None:
        for index in range(self.sections.count):
            if self.sections.get(data, index, "type") == _SHT[kind]:
                return (
                    self.sections.get(data, index, "offset"),
                    self.sections.get(data, index, "size"),
                )
        return None


def layout_of(data: bytes) -> Layout:
    """The layout of a whole, true file."""
    bits = 32 if data[4] == 1 else 64
    stride = _STRIDE[bits]
    head = Table(0, 1, 0, _FILE[bits])
    segments = Table(
        head.get(data, 0, "phoff"), head.get(data, 0, "phnum"), stride["segment"], _SEGMENT[bits]
    )
    sections = Table(
        head.get(data, 0, "shoff"), head.get(data, 0, "shnum"), stride["section"], _SECTION[bits]
    )
    layout = Layout(bits, head, segments, sections)
    names = 0
    if sections.count:
        names = sections.get(data, head.get(data, 0, "shstrndx"), "offset")
    for index in range(sections.count):
        at = names + sections.get(data, index, "name")
        name = data[at : data.index(b"\0", at)].decode()
        if sections.get(data, index, "type") != 8:  # SHT_NOBITS
            layout.parts[name] = (
                sections.get(data, index, "offset"),
                sections.get(data, index, "size"),
            )
    for name, form, fields in (
        ("symtab", "symbol", _SYMBOL),
        ("dynsym", "symbol", _SYMBOL),
        ("dynamic", "dynamic", _DYNAMIC),
    ):
        found = layout.part_of_kind(data, name)
        if found is not None and found[0] + found[1] <= len(data):
            size = stride[form]
            layout.tables[name] = Table(found[0], found[1] // size, size, fields[bits])
    return layout


def frame_entries(data: bytes, part: tuple[int, int], most: int = 4000) -> list[tuple[int, bool]]:
    """Where the entries of `.eh_frame` begin, and which of them are CIEs."""
    at, end = part[0], part[0] + part[1]
    found: list[tuple[int, bool]] = []
    while at + 8 <= end and len(found) < most:
        length, pointer = struct.unpack_from("<II", data, at)
        if length in (0, 0xFFFFFFFF):
            break
        found.append((at, pointer == 0))
        at += 4 + length
    return found
