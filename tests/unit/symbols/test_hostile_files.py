"""Whatever a file holds, it is an image or unreadable: never another error, never a hang."""

from __future__ import annotations

import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.addresses import ElfAddr
from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.symbols.source import BytesSource
from tests.support.elf_writer import TEXT, ElfSymbol, section_headers_at, write_elf
from tests.support.versioned import versioned_library


def _exercise(data: bytes) -> None:
    """Asks everything of an image that can be asked."""
    try:
        image = Image(BytesSource(data, "hostile"), "hostile")
        image.lookup("copy")
        image.lookup("copy", "V1")
        image.glob_best("*")
        image.close_names("cpoy")
        for segment in image.segments:
            image.symbol_at(segment.address)
            image.symbol_at(ElfAddr(segment.address + segment.memory_size - 1))
    except UnreadableElf:
        pass


def _library() -> bytes:
    return versioned_library().read_bytes()


def test_a_file_cut_short_at_any_length_is_an_image_or_unreadable() -> None:
    data = _library()
    for length in range(len(data)):
        _exercise(data[:length])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_file_with_bytes_changed_is_an_image_or_unreadable(data: st.DataObject) -> None:
    original = _library()
    # Three of four changes are to headers, where they matter most.
    header = st.integers(0, 64 + 56 * 12)
    section = st.integers(section_headers_at(original), len(original) - 1)
    anywhere = st.integers(0, len(original) - 1)
    value = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
    changed = bytearray(original)
    for place, byte in data.draw(
        st.lists(st.tuples(header | section | header | anywhere, value), min_size=1, max_size=12)
    ):
        changed[place] = byte
    _exercise(bytes(changed))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_bytes_that_begin_like_a_program_are_an_image_or_unreadable(tail: bytes) -> None:
    _exercise(b"\x7fELF\x02\x01\x01" + bytes(9) + tail)


def test_many_symbols_that_share_a_long_name_are_refused_or_found_in_bounded_memory() -> None:
    # GIVEN one name of 60 KB and 30,000 symbols that have it: 1.8 GB of names if each were kept
    strings = b"\0" + b"a" * 60_000 + b"\0"
    symbols = [ElfSymbol(1, TEXT + n % 4096) for n in range(30_000)]

    _exercise(write_elf(symbols, strings=strings))


def test_a_name_without_an_end_is_no_name() -> None:
    image = Image(BytesSource(write_elf([ElfSymbol(1, TEXT)], strings=b"\0abc"), "x"), "x")

    assert image.lookup("abc") == []
    assert image.glob("*") == []


def test_version_definitions_that_run_in_a_circle_come_to_an_end() -> None:
    data = _library()
    at = data.index(struct.pack("<HHH", 1, 1, 1))  # the first definition: the file's own
    changed = bytearray(data)
    struct.pack_into("<I", changed, at + 16, 1)  # vd_next: overlapping, ever onwards

    _exercise(bytes(changed))
