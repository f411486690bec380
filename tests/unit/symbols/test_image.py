"""An image finds the code that a name means, and the name of the code at an address."""

from __future__ import annotations

import tracemalloc

import pytest

from ptrace_uprobes.addresses import ElfAddr
from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.image import Image, image_from_bytes
from tests.support.elf_writer import TEXT, ElfSymbol, write_elf

STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_GNU_IFUNC = 0, 1, 2, 3, 10
STB_LOCAL = 0
SHN_UNDEF, SHN_ABS = 0, 0xFFF1


def _image(*symbols: ElfSymbol, elf_class: int = 64, strings: bytes | None = None) -> Image:
    return image_from_bytes(write_elf(symbols, elf_class=elf_class, strings=strings), "image")


def _at(image: Image, address: int) -> tuple[str, int] | None:
    found = image.symbol_at(ElfAddr(address))
    return None if found is None else (found[0].name, found[1])


@pytest.mark.parametrize("elf_class", [32, 64])
def test_a_name_is_found_with_its_address_and_size(elf_class: int) -> None:
    image = _image(ElfSymbol("f", TEXT, 4), ElfSymbol("g", TEXT + 4, 8), elf_class=elf_class)

    (symbol,) = image.lookup("g")

    assert (symbol.name, symbol.address, symbol.size) == ("g", TEXT + 4, 8)
    assert symbol.is_function
    assert not symbol.is_ifunc
    assert image.lookup("h") == []
    assert image.lookup("") == []


def test_only_code_that_the_file_defines_is_found() -> None:
    image = _image(
        ElfSymbol("imported", 0, section=SHN_UNDEF),
        ElfSymbol("constant", TEXT, section=SHN_ABS),
        ElfSymbol("data", TEXT, kind=STT_OBJECT),
        ElfSymbol("section", TEXT, kind=STT_SECTION),
        ElfSymbol("elsewhere", 0x100000),
    )

    for name in ("imported", "constant", "data", "section", "elsewhere"):
        assert image.lookup(name) == []
    assert image.glob("*") == []


def test_a_label_without_a_type_is_found_by_name_and_not_by_a_pattern() -> None:
    image = _image(ElfSymbol("label", TEXT, 0, kind=STT_NOTYPE))

    (symbol,) = image.lookup("label")

    assert not symbol.is_function
    assert image.glob("*") == []


def test_a_name_that_is_the_tail_of_another_is_found() -> None:
    # GIVEN a string table as linkers merge it: `malloc` is the end of `__libc_malloc`
    strings = b"\0__libc_malloc\0"
    image = _image(ElfSymbol(1, TEXT), ElfSymbol(8, TEXT + 16), strings=strings)

    assert [s.address for s in image.lookup("malloc")] == [TEXT + 16]
    assert [s.address for s in image.lookup("__libc_malloc")] == [TEXT]


@pytest.mark.parametrize("tails", [3, 100, 5000], ids=["few", "more", "too many to search for"])
def test_a_name_that_ends_many_others_is_found_alone(tails: int) -> None:
    names = [f"{number}x" for number in range(tails)]
    image = _image(
        *(ElfSymbol(n, TEXT + i % 256) for i, n in enumerate(names)), ElfSymbol("x", TEXT)
    )

    assert [s.name for s in image.lookup("x")] == ["x"]
    assert [s.name for s in image.lookup("1x")] == ["1x"]


def test_a_name_is_found_wherever_it_lies_in_a_long_string_table() -> None:
    # GIVEN string tables in which one name lies at every place about where reading begins anew
    for start in range(98_304 - 8, 98_304 + 2):
        strings = b"\0" + b"x" * (start - 2) + b"\0needle\0"
        image = _image(ElfSymbol(start, TEXT), strings=strings)

        assert [s.name for s in image.lookup("needle")] == ["needle"]


def test_functions_of_one_name_are_all_found() -> None:
    image = _image(
        ElfSymbol("init", TEXT + 64, binding=STB_LOCAL),
        ElfSymbol("init", TEXT + 32, binding=STB_LOCAL),
        ElfSymbol("init", TEXT + 32, binding=STB_LOCAL),
    )

    assert [s.address for s in image.lookup("init")] == [TEXT + 32, TEXT + 64]


def test_without_a_version_the_default_one_is_meant() -> None:
    image = _image(ElfSymbol("copy@OLD", TEXT), ElfSymbol("copy@@NEW", TEXT + 16))

    assert [(s.address, s.version, s.label) for s in image.lookup("copy")] == [
        (TEXT + 16, "NEW", "copy")
    ]
    assert [(s.address, s.label) for s in image.lookup("copy", "OLD")] == [(TEXT, "copy@OLD")]
    assert image.lookup("copy", "OTHER") == []


def test_a_name_with_old_versions_only_means_these() -> None:
    image = _image(ElfSymbol("gone@V1", TEXT), ElfSymbol("gone@V2", TEXT + 16))

    assert [s.label for s in image.lookup("gone")] == ["gone@V1", "gone@V2"]


def test_a_pattern_finds_each_address_by_each_of_its_names() -> None:
    image = _image(
        ElfSymbol("__libc_malloc", TEXT),
        ElfSymbol("malloc", TEXT),
        ElfSymbol("malloc_trim", TEXT + 16),
        ElfSymbol("free", TEXT + 32),
    )

    found = [(s.address, s.name) for s in image.glob("*malloc*")]
    best = [(s.address, s.name) for s in image.glob_best("*malloc*")]

    assert found == [(TEXT, "__libc_malloc"), (TEXT, "malloc"), (TEXT + 16, "malloc_trim")]
    assert best == [(TEXT, "malloc"), (TEXT + 16, "malloc_trim")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("mem*", ["memcpy", "memset"]),
        ("mem???", ["memcpy", "memset"]),
        ("mem[a-c]*", ["memcpy"]),
        ("mem[!a-c]*", ["memset"]),
        ("MEM*", []),
        ("em*", []),
    ],
)
def test_patterns_are_those_of_the_shell(pattern: str, names: list[str]) -> None:
    image = _image(ElfSymbol("memcpy@@V", TEXT), ElfSymbol("memset", TEXT + 16))

    assert [s.name for s in image.glob(pattern)] == names


def test_a_pattern_can_be_of_versions() -> None:
    image = _image(
        ElfSymbol("copy@V1", TEXT), ElfSymbol("copy@@V2", TEXT + 16), ElfSymbol("copy", TEXT + 32)
    )

    assert [s.label for s in image.glob("copy", "V*")] == ["copy@V1", "copy"]


def test_an_ifunc_and_its_resolver_are_two_functions_at_one_address() -> None:
    image = _image(
        ElfSymbol("copy", TEXT, kind=STT_GNU_IFUNC),
        ElfSymbol("choose_copy", TEXT, binding=STB_LOCAL),
    )

    assert [s.is_ifunc for s in image.lookup("copy")] == [True]
    assert [(s.name, s.is_ifunc) for s in image.glob_best("*")] == [
        ("choose_copy", False),
        ("copy", True),
    ]


def test_an_address_is_named_by_the_innermost_function_that_holds_it() -> None:
    image = _image(
        ElfSymbol("outer", TEXT, 64),
        ElfSymbol("inner", TEXT + 16, 8),
        ElfSymbol("next", TEXT + 64, 8),
    )

    assert _at(image, TEXT + 4) == ("outer", 4)
    assert _at(image, TEXT + 18) == ("inner", 2)
    assert _at(image, TEXT + 24) == ("outer", 24)
    assert _at(image, TEXT + 64) == ("next", 0)
    assert _at(image, TEXT + 72) is None
    assert _at(image, TEXT - 1) is None


def test_a_function_of_unknown_size_reaches_to_the_next() -> None:
    image = _image(ElfSymbol("start", TEXT, 0), ElfSymbol("next", TEXT + 32, 8))

    assert _at(image, TEXT + 31) == ("start", 31)
    assert image.next_function(ElfAddr(TEXT)) == TEXT + 32
    assert image.next_function(ElfAddr(TEXT + 32)) is None


def test_of_the_names_of_an_address_the_public_one_names_it() -> None:
    image = _image(
        ElfSymbol("a", TEXT, binding=STB_LOCAL),
        ElfSymbol("__libc_malloc", TEXT),
        ElfSymbol("malloc", TEXT),
    )

    assert _at(image, TEXT) == ("malloc", 0)


def test_names_that_the_user_may_have_meant_are_offered() -> None:
    image = _image(*(ElfSymbol(n, TEXT) for n in ("malloc", "calloc", "realloc@@V", "printf")))

    assert image.close_names("maloc")[0] == "malloc"
    assert "printf" not in image.close_names("maloc")
    assert image.close_names("PRINTF") == ("printf",)
    assert image.close_names("") == ()


def test_one_name_of_a_hundred_thousand_costs_no_object_per_symbol() -> None:
    # GIVEN a file with 100,000 symbols, whose tables have 4 MB
    image = _image(*(ElfSymbol(f"function_{n}", TEXT + n % 4096, 1) for n in range(100_000)))
    image.lookup("warm_up")

    # WHEN one name is looked up
    tracemalloc.start()
    try:
        (symbol,) = image.lookup("function_77777")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # THEN nothing near 100,000 objects (of 50 bytes at least) was there at any time
    assert symbol.name == "function_77777"
    assert peak < 4_500_000


def test_a_segment_that_the_file_does_not_have_is_refused() -> None:
    data = bytearray(write_elf())
    data[64 + 32 : 64 + 40] = (1 << 40).to_bytes(8, "little")  # p_filesz

    with pytest.raises(UnreadableElf, match="cut short inside a segment"):
        image_from_bytes(bytes(data), "image")
