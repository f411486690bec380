"""Files that are small on the disk and would cost a reader hours or gigabytes: each by its name."""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["BOMBS", "write_program"]

_TEXT: Final = 0x1000
BOMBS: Final[dict[str, Callable[[Path], None]]] = {}


def _bomb(function: Callable[[Path], None]) -> Callable[[Path], None]:
    BOMBS[function.__name__.strip("_").replace("_", "-")] = function
    return function


def _segment(kind: int, offset: int, size: int, flags: int = 5) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, offset, offset, size, size, 0x1000)


def _section(name: int, kind: int, offset: int, size: int, link: int = 0, flags: int = 0) -> bytes:
    return struct.pack("<IIQQQQIIQQ", name, kind, flags, offset, offset, size, link, 0, 1, 0)


def _head(segments: int, sections_at: int, sections: int, names: int) -> bytes:
    identity = b"\x7fELF\2\1\1" + bytes(9)
    count = sections if sections < 0xFF00 else 0  # then section 0 has it
    return identity + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, _TEXT, 64, sections_at, 0, 64, 56, segments, 64, count, names
    )


def write_program(
    path: Path,
    parts: list[tuple[str, int, bytes, int]],
    *,
    segments: list[bytes] | None = None,
    more_sections: bytes = b"",
    code: bytes = b"\xc3" * 0x1000,
) -> None:
    """A program of one code segment; `parts` are (section name, type, content, link)."""
    names = b"\0"
    rows = [b""]
    body = code
    for name, kind, content, link in [*parts, (".shstrtab", 3, b"", 0)]:
        if name == ".shstrtab":
            content = names + b".shstrtab\0"
        rows.append(_section(len(names), kind, _TEXT + len(body), len(content), link, 2))
        names += name.encode() + b"\0"
        body += content
    sections_at = _TEXT + len(body)
    count = len(rows) + len(more_sections) // 64
    rows[0] = _section(0, 0, 0, count if count >= 0xFF00 else 0)
    headers = segments or [_segment(1, _TEXT, len(body))]
    head = _head(len(headers), sections_at, count, len(rows) - 1) + b"".join(headers)
    assert segments is not None or len(head) <= _TEXT
    path.write_bytes(head.ljust(_TEXT, b"\0") + body + b"".join(rows) + more_sections)


def _symbol(name: int, value: int, size: int = 0, info: int = 0x12) -> bytes:
    return struct.pack("<IBBHQQ", name, info, 0, 1, value, size)


@_bomb
def _many_notes(path: Path) -> None:
    """65,000 sections of notes that are the same 64 KiB."""
    notes = struct.pack("<III", 0, 0, 0) * 5461
    row = _section(0, 7, _TEXT + 0x1000, len(notes))
    write_program(path, [(".note", 7, notes, 0)], more_sections=row * 65000)


@_bomb
def _many_note_segments(path: Path) -> None:
    notes = struct.pack("<III", 0, 0, 0) * 5461
    segments = [_segment(1, 0x20000, 0x1000), *[_segment(4, 0x20000, len(notes))] * 1100]
    write_program(path, [(".note", 7, bytes(0x1F000) + notes, 0)], segments=_spread(segments))


def _spread(segments: list[bytes]) -> list[bytes]:
    """So many headers that they reach into what follows."""
    return segments[: (0x10000 // 56) - 1]


@_bomb
def _many_code_segments(path: Path) -> None:
    """Each symbol is looked for in a thousand segments, and is in none of them."""
    symbols = b"".join(_symbol(1, 0x4000_0000 + n) for n in range(100_000))
    segments = [_segment(1, 0x11000, 1)] * 1100
    head = _head(len(segments), 0, 0, 0) + b"".join(segments)
    body = head.ljust(0x11000, b"\0") + b"\xc3" * 0x1000
    at = len(body)
    names = b"\0.symtab\0.strtab\0"
    sections = (
        _section(0, 0, 0, 0)
        + _section(1, 2, at, len(symbols), 2)
        + _section(9, 3, at + len(symbols), len(names))
    )
    content = body + symbols + names
    path.write_bytes(_head(len(segments), len(content), 3, 2) + content[64:] + sections)


@_bomb
def _one_long_name(path: Path) -> None:
    """400,000 symbols that share one name of 60,000 characters."""
    names = b"\0" + b"a" * 60_000 + b"\0"
    symbols = b"".join(_symbol(1, _TEXT + n % 4096) for n in range(400_000))
    write_program(path, [(".symtab", 2, symbols, 2), (".strtab", 3, names, 0)])


@_bomb
def _one_address(path: Path) -> None:
    """200,000 symbols at one address, each with a longer name than the one before."""
    names = b"\0" + b"_" * 60_000 + b"\0"
    symbols = b"".join(_symbol(60_000 - n % 60_000, _TEXT, 1) for n in range(200_000))
    write_program(path, [(".symtab", 2, symbols, 2), (".strtab", 3, names, 0)])


def _dynamic(path: Path, size: int, tags: list[tuple[int, int]], places: dict[int, bytes]) -> None:
    """A sparse file without sections, with these dynamic entries."""
    table = b"".join(struct.pack("<QQ", *entry) for entry in [*tags, (0, 0)])
    segments = [_segment(1, 0, size), _segment(2, _TEXT, len(table))]
    with open(path, "wb") as file:
        file.write(_head(2, 0, 0, 0) + b"".join(segments))
        os.pwrite(file.fileno(), table, _TEXT)
        for at, content in places.items():
            os.pwrite(file.fileno(), content, at)
        file.truncate(size)


@_bomb
def _endless_chain(path: Path) -> None:
    """A hash chain of a terabyte of zeros, in a sparse file."""
    table = struct.pack("<IIII", 1, 1, 1, 0) + bytes(8) + struct.pack("<I", 1)
    tags = [(5, 0x3000), (10, 0x100), (6, 0x4000), (0x6FFFFEF5, 0x2000)]
    _dynamic(path, 1 << 40, tags, {0x2000: table})


@_bomb
def _many_buckets(path: Path) -> None:
    table = struct.pack("<IIII", 1 << 25, 1, 1, 0)
    tags = [(5, 0x3000), (10, 0x100), (6, 0x4000), (0x6FFFFEF5, 0x2000)]
    _dynamic(path, 1 << 40, tags, {0x2000: table})


@_bomb
def _many_hashed(path: Path) -> None:
    """DT_HASH that claims four thousand million symbols."""
    tags = [(5, 0x3000), (10, 0x100), (6, 0x4000), (4, 0x2000)]
    _dynamic(path, 1 << 40, tags, {0x2000: struct.pack("<II", 1, 0xFFFFFFFF)})


@_bomb
def _large_strings(path: Path) -> None:
    tags = [(5, 0x10000), (10, 1 << 29), (6, 0x4000), (4, 0x2000)]
    places = {0x2000: struct.pack("<II", 1, 1000), 0x4000: _symbol(1, _TEXT) * 1000}
    _dynamic(path, 1 << 40, tags, places)


@_bomb
def _large_symbols(path: Path) -> None:
    tags = [(5, 0x10000), (10, 1 << 20), (6, 0x400000), (4, 0x2000)]
    _dynamic(path, 1 << 40, tags, {0x2000: struct.pack("<II", 1, (1 << 29) // 24)})


def _entry(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


@_bomb
def _many_cies(path: Path) -> None:
    """Every FDE has a CIE of its own, of 256 KiB, that are the same bytes but for their start."""
    cie = b"\1zR\0\1\x78\x10\1\x1b"
    data = bytearray(_entry(struct.pack("<I", 0) + cie))
    inner_at = 0
    for _ in range(100_000):
        at = len(data)
        # The next one's CIE stands inside of this FDE's own instructions.
        inner = struct.pack("<II", 250_000, 0) + cie
        head = struct.pack("<IiiB", at + 4 - inner_at, 16, 16, 0)
        data += _entry(head + inner)
        inner_at = at + 4 + len(head)
    data += bytes(260_000)
    write_program(path, [(".eh_frame", 1, bytes(data), 0)])


@_bomb
def _one_bad_cie(path: Path) -> None:
    """Every FDE has the same CIE of 256 KiB, which cannot be read."""
    data = bytearray(_entry(struct.pack("<I", 0) + b"\x09" + bytes(250_000)))
    for _ in range(200_000):
        data += _entry(struct.pack("<Iii", len(data) + 4, 0, 1))
    write_program(path, [(".eh_frame", 1, bytes(data), 0)])


@_bomb
def _debugdata(path: Path) -> None:
    compressor = lzma.LZMACompressor()
    pieces = [compressor.compress(bytes(1 << 20)) for _ in range(1 << 8)]
    write_program(path, [(".gnu_debugdata", 1, b"".join([*pieces, compressor.flush()]), 0)])


@_bomb
def _debugdata_of_an_image(path: Path) -> None:
    """What swells is an image, of the largest size that is taken."""
    inner = path.with_name("inner")
    write_program(
        inner, [(".symtab", 2, bytes(24) + _symbol(1, _TEXT), 2), (".strtab", 3, b"\0main\0", 0)]
    )
    content = inner.read_bytes()
    inner.unlink()
    compressor = lzma.LZMACompressor()
    pieces = [compressor.compress(content)]
    pieces += [compressor.compress(bytes(1 << 20)) for _ in range(100)]
    write_program(path, [(".gnu_debugdata", 1, b"".join([*pieces, compressor.flush()]), 0)])


@_bomb
def _compressed_frames(path: Path) -> None:
    content = zlib.compress(bytes(1 << 28), 9)
    head = struct.pack("<IIQQ", 1, 0, 1 << 28, 1)
    write_program(path, [(".debug_frame", 1, head + content, 0)])
