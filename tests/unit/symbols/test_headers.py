"""Headers are read as far as they can be believed, and refused with a reason otherwise."""

from __future__ import annotations

import struct

import pytest

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.headers import Headers, read_headers
from ptrace_uprobes.symbols.source import BytesSource
from tests.support.elf_writer import TEXT, ElfSymbol, section_headers_at, write_elf


def _headers(data: bytes) -> Headers:
    return read_headers(BytesSource(data, "the file"))


def _with(data: bytes, offset: int, layout: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize("elf_class", [32, 64])
def test_both_classes_say_the_same(elf_class: int) -> None:
    headers = _headers(write_elf([ElfSymbol("f", TEXT)], elf_class=elf_class))

    assert headers.elf_class == elf_class
    assert headers.entry == TEXT
    (segment,) = headers.segments
    assert segment.is_executable
    assert not segment.is_writable
    assert (segment.offset, segment.address, segment.file_size) == (TEXT, TEXT, 0x1000)
    assert [section.name for section in headers.sections] == [
        "",
        ".text",
        ".symtab",
        ".strtab",
        ".shstrtab",
    ]


@pytest.mark.parametrize(("kind", "expected"), [(2, False), (3, True)])
def test_the_file_type_says_whether_the_program_can_be_anywhere(kind: int, expected: bool) -> None:
    assert _headers(write_elf(kind=kind)).is_position_independent is expected


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not an ELF file"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (b"\x7fELF", "cut short"),
        (b"\x7fELF\x02\x01" + bytes(10), "cut short"),
        (_with(write_elf(), 4, "<B", 3), "ELF class 3"),
        (_with(write_elf(), 5, "<B", 2), "not little-endian"),
        (write_elf(kind=1), "a relocatable object"),
        (write_elf(kind=4), "a core dump"),
        (write_elf(kind=0xFE00), "unknown type 65024"),
        (_with(write_elf(), 54, "<H", 55), "program headers are of 55 bytes"),
        (_with(write_elf(), 56, "<H", 0xFFFF), "65535 program headers"),
        (_with(write_elf(), 32, "<Q", 1 << 63), "cut short"),
    ],
)
def test_what_is_no_program_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(UnreadableElf) as caught:
        _headers(data)
    assert why in str(caught.value)
    assert str(caught.value).startswith("cannot read the file: ")


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (40, "<Q", 0),  # e_shoff: there are none
        (40, "<Q", (1 << 64) - 1),  # ... or beyond the file
        (58, "<H", 65),  # e_shentsize
        (60, "<H", 0xFEFF),  # e_shnum
    ],
)
def test_section_headers_that_cannot_be_believed_are_as_none(
    offset: int, layout: str, value: int
) -> None:
    # GIVEN a program whose section headers are wrong, which the kernel runs all the same
    headers = _headers(_with(write_elf(), offset, layout, value))

    assert headers.sections == ()
    assert len(headers.segments) == 1


def test_a_count_of_sections_that_does_not_fit_the_file_header_is_in_the_first_section() -> None:
    data = write_elf()
    data = _with(data, 60, "<H", 0)  # e_shnum
    data = _with(data, 62, "<H", 0xFFFF)  # e_shstrndx: SHN_XINDEX
    first = section_headers_at(data)
    data = _with(data, first + 32, "<Q", 5)  # sh_size
    data = _with(data, first + 40, "<I", 4)  # sh_link

    assert [section.name for section in _headers(data).sections][1:3] == [".text", ".symtab"]


def test_an_address_is_found_in_the_file_only_where_the_file_has_it() -> None:
    headers = _headers(write_elf())

    assert headers.offset_of(TEXT + 5) == TEXT + 5
    assert headers.offset_of(TEXT + 0x1000) is None
    assert headers.offset_of(0) is None
