"""Damage done to a true ELF file, each kind by its name; seeded."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Final

from fuzz.files.layout import Layout, Table, frame_entries

__all__ = ["MUTATIONS", "mutated"]

Mutation = Callable[[Random, bytearray, Layout], None]
MUTATIONS: Final[dict[str, Mutation]] = {}

_EDGES: Final = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 0x7F, 0x80, 0xFF, 0x100, 0xFFF, 0x1000, 0x7FFF, 0xFFFF),
    *(0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 1 << 32, 1 << 40, 1 << 47),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 0x1000, (1 << 64) - 24),
)


def _kind(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__.strip("_").replace("_", "-")] = function
    return function


def _number(rng: Random, size: int) -> int:
    """A number that somebody may have forgotten: an edge, near the file's size, or any."""
    choice = rng.random()
    if choice < 0.6:
        return rng.choice(_EDGES)
    if choice < 0.8:
        return max(0, size + rng.randrange(-64, 65))
    return rng.getrandbits(rng.choice((8, 16, 32, 64)))


def _damage(rng: Random, data: bytearray, table: Table, most: int = 4) -> None:
    for _ in range(rng.randrange(1, most + 1)):
        if table.count and table.at + table.count * table.stride <= len(data):
            name = rng.choice(list(table.fields))
            table.put(data, rng.randrange(table.count), name, _number(rng, len(data)))


def _bytes_in(rng: Random, data: bytearray, part: tuple[int, int] | None, most: int = 16) -> None:
    """Some bytes of a part changed: to edges, to each other, or at random."""
    if part is None or part[1] == 0:
        return
    at, size = part
    for _ in range(rng.randrange(1, most + 1)):
        place = at + rng.randrange(size)
        if place < len(data):
            data[place] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))


@_kind
def _truncated(rng: Random, data: bytearray, layout: Layout) -> None:
    near = [at for at, _ in layout.parts.values()] + [layout.sections.at, layout.segments.at]
    cut = (
        rng.choice(near) + rng.randrange(-8, 72) if rng.random() < 0.6 else rng.randrange(len(data))
    )
    del data[max(0, cut) :]


@_kind
def _flipped_bytes(rng: Random, data: bytearray, layout: Layout) -> None:
    for _ in range(rng.randrange(1, 200)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


@_kind
def _file_header(rng: Random, data: bytearray, layout: Layout) -> None:
    _damage(rng, data, layout.file, 3)


@_kind
def _wrong_kind(rng: Random, data: bytearray, layout: Layout) -> None:
    name, values = rng.choice(
        (
            ("class", (0, 1, 2, 3)),
            ("encoding", (0, 1, 2)),
            ("machine", (0, 3, 40, 62, 183, 0xFFFF)),
            ("type", (0, 1, 2, 3, 4, 0xFE00)),
        )
    )
    layout.file.put(data, 0, name, rng.choice(values))


@_kind
def _segments(rng: Random, data: bytearray, layout: Layout) -> None:
    _damage(rng, data, layout.segments)


@_kind
def _overlapping_segments(rng: Random, data: bytearray, layout: Layout) -> None:
    table = layout.segments
    for _ in range(rng.randrange(1, 4)):
        one, other = rng.randrange(table.count), rng.randrange(table.count)
        for name in rng.sample(list(table.fields), rng.randrange(1, 7)):
            table.put(data, one, name, table.get(data, other, name))


@_kind
def _wrapping_segments(rng: Random, data: bytearray, layout: Layout) -> None:
    index = rng.randrange(layout.segments.count)
    top = 1 << layout.bits
    layout.segments.put(data, index, "address", top - rng.choice((1, 0x1000, 0x100000)))
    layout.segments.put(data, index, "memory_size", rng.choice((1, 0x1000, 0x100000, top - 1)))
    layout.segments.put(data, index, "align", rng.choice((0, 1, 3, top >> 1, top - 1)))


@_kind
def _sections(rng: Random, data: bytearray, layout: Layout) -> None:
    if layout.sections.count:
        _damage(rng, data, layout.sections, 6)


@_kind
def _overlapping_sections(rng: Random, data: bytearray, layout: Layout) -> None:
    table = layout.sections
    if not table.count:
        return
    for _ in range(rng.randrange(1, 6)):
        one, other = rng.randrange(table.count), rng.randrange(table.count)
        for name in rng.sample(("offset", "size", "type", "name", "address"), 3):
            table.put(data, one, name, table.get(data, other, name))


@_kind
def _cyclic_links(rng: Random, data: bytearray, layout: Layout) -> None:
    """Sections linked to themselves and to each other; debug links to the file itself."""
    table = layout.sections
    for index in range(table.count):
        if rng.random() < 0.5:
            table.put(data, index, "link", rng.choice((index, rng.randrange(table.count))))
    if (link := layout.parts.get(".gnu_debuglink")) is not None and rng.random() < 0.5:
        name = rng.choice((b"hostile\0", b".\0", b"..\0", b"\n\0", b"a" * link[1]))
        data[link[0] : link[0] + len(name[: link[1]])] = name[: link[1]]


@_kind
def _without_sections(rng: Random, data: bytearray, layout: Layout) -> None:
    """Read by its dynamic section, which is damaged as well."""
    for name in ("shoff", "shnum"):
        layout.file.put(data, 0, name, 0)
    table = layout.tables.get("dynamic")
    if table is not None:
        _damage(rng, data, table)


@_kind
def _dynamic_section(rng: Random, data: bytearray, layout: Layout) -> None:
    table = layout.tables.get("dynamic")
    if table is None:
        return
    _damage(rng, data, table, 6)
    for _ in range(rng.randrange(3)):  # one thing where another should be
        one, other = rng.randrange(table.count), rng.randrange(table.count)
        table.put(data, one, "value", table.get(data, other, "value"))


@_kind
def _hash_tables(rng: Random, data: bytearray, layout: Layout) -> None:
    layout.file.put(data, 0, "shoff", 0)
    for name in (".hash", ".gnu.hash"):
        part = layout.parts.get(name)
        if part is None or part[1] < 16:
            continue
        for field in range(4):
            if rng.random() < 0.4:
                struct.pack_into(
                    "<I", data, part[0] + 4 * field, _number(rng, part[1]) & 0xFFFFFFFF
                )
        if rng.random() < 0.5:  # chains that do not end
            for at in range(part[0] + 16, part[0] + part[1] - 3, 4):
                data[at] &= 0xFE


@_kind
def _symbols(rng: Random, data: bytearray, layout: Layout) -> None:
    for name in ("symtab", "dynsym"):
        if (table := layout.tables.get(name)) is not None:
            _damage(rng, data, table, 200)


@_kind
def _symbols_elsewhere(rng: Random, data: bytearray, layout: Layout) -> None:
    """Outside of segments, beyond each other, all at one place, of a lying size."""
    table = layout.tables.get(rng.choice(("symtab", "dynsym")))
    if table is None:
        return
    place, size = _number(rng, len(data)), _number(rng, 64)
    for index in range(0, min(table.count, 3000), rng.randrange(1, 4)):
        table.put(data, index, "value", rng.choice((place, place + index, _number(rng, 4096))))
        table.put(data, index, "size", size)
        table.put(data, index, "info", rng.choice((0x12, 0x02, 0x1A, 0x0A, 0x10, 0x22)))
        table.put(data, index, "section", rng.choice((1, 0xFFFF, 14)))


@_kind
def _names(rng: Random, data: bytearray, layout: Layout) -> None:
    """Names without an end, of bytes that are no text, or that are one name."""
    for part in (layout.parts.get(n) for n in (".strtab", ".dynstr", ".shstrtab")):
        if part is None:
            continue
        how = rng.randrange(4)
        if how == 0:
            data[part[0] : part[0] + part[1]] = bytes(rng.choices(range(1, 256), k=part[1]))
        elif how == 1:
            data[part[0] : part[0] + part[1]] = b"\n\x1b[2J\0"[: part[1]].ljust(part[1], b"A")
        elif how == 2:
            _bytes_in(rng, data, part, 400)


@_kind
def _notes(rng: Random, data: bytearray, layout: Layout) -> None:
    for name, part in layout.parts.items():
        if name.startswith(".note") and part[1] >= 12:
            at = part[0] + 4 * rng.randrange(3)
            struct.pack_into("<I", data, at, _number(rng, part[1]) & 0xFFFFFFFF)


@_kind
def _versions(rng: Random, data: bytearray, layout: Layout) -> None:
    for name in (".gnu.version", ".gnu.version_d", ".gnu.version_r"):
        _bytes_in(rng, data, layout.parts.get(name), 40)


@_kind
def _frames(rng: Random, data: bytearray, layout: Layout) -> None:
    _bytes_in(rng, data, layout.parts.get(".eh_frame"), 200)
    _bytes_in(rng, data, layout.parts.get(".eh_frame_hdr"), 40)
    _bytes_in(rng, data, layout.parts.get(".debug_frame"), 200)


@_kind
def _frame_lengths(rng: Random, data: bytearray, layout: Layout) -> None:
    """Lengths and CIE pointers of entries: to themselves, to each other, out of the section."""
    part = layout.parts.get(".eh_frame")
    if part is None:
        return
    entries = frame_entries(bytes(data), part)
    for _ in range(rng.randrange(1, 40)):
        at, _ = rng.choice(entries)
        other, _ = rng.choice(entries)
        field = rng.choice((0, 4))
        value = rng.choice((_number(rng, part[1]), at + 4 - other, 4, 0))
        struct.pack_into("<I", data, at + field, value & 0xFFFFFFFF)
    if rng.random() < 0.5 and (header := layout.parts.get(".eh_frame_hdr")) is not None:
        # Only the section itself is left to find them by.
        data[header[0]] = 9


@_kind
def _appended_bombs(rng: Random, data: bytearray, layout: Layout) -> None:
    """A section made to be one that is compressed, with content that swells."""
    table = layout.sections
    if table.count < 4 or layout.bits == 32:
        return
    size = rng.choice((1 << 20, 1 << 25, 1 << 27))
    kind = rng.choice((".gnu_debugdata", ".debug_frame", ".zdebug_frame"))
    if kind == ".gnu_debugdata":
        content = _swelling("xz", size)
    elif kind == ".debug_frame":
        claimed = rng.choice((size, 1 << 24, 1 << 40, (1 << 64) - 1))
        content = struct.pack("<IIQQ", 1, 0, claimed, 1) + _swelling("zlib", size)
    else:
        content = b"ZLIB" + rng.choice((size, 1 << 62)).to_bytes(8, "big") + _swelling("zlib", size)
    names = layout.file.get(data, 0, "shstrndx")
    old_at, old_size = table.get(data, names, "offset"), table.get(data, names, "size")
    strings = bytes(data[old_at : old_at + old_size]) + kind.encode() + b"\0"
    table.put(data, names, "offset", len(data))
    table.put(data, names, "size", len(strings))
    data += strings
    index = next(i for i in range(1, table.count) if i != names)
    table.put(data, index, "name", old_size)
    table.put(data, index, "type", 1)
    table.put(data, index, "offset", len(data))
    table.put(data, index, "size", len(content))
    data += content


_swollen: dict[tuple[str, int], bytes] = {}


def _swelling(how: str, size: int) -> bytes:
    """What decompresses to `size` bytes of nothing."""
    made = _swollen.get((how, size))
    if made is None:
        compressor = lzma.LZMACompressor() if how == "xz" else zlib.compressobj()
        pieces = [compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)]
        made = _swollen[how, size] = b"".join([*pieces, compressor.flush()])
    return made


def mutated(kind: str, seed: int, original: bytes, layout: Layout) -> bytes:
    """The file with that damage; one in five has a second kind as well."""
    rng = Random(f"{kind} {seed}")
    data = bytearray(original)
    MUTATIONS[kind](rng, data, layout)
    if rng.random() < 0.2 and len(data) == len(original):
        MUTATIONS[rng.choice(list(MUTATIONS))](rng, data, layout)
    return bytes(data)
