"""A spec means the addresses that a user would expect, or an error that helps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.definition.spec import parse_spec
from ptrace_uprobes.errors import BadAddress, ModuleNotLoaded, SymbolNotFound, UnreadableElf
from ptrace_uprobes.symbols.image import image_from_bytes, open_image
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.symbols.resolve import explain_missing, resolve
from tests.support.elf_writer import TEXT, ElfSymbol, write_elf

STT_GNU_IFUNC = 10


def _module(path: str, bias: int, *symbols: ElfSymbol, is_main: bool = False) -> Module:
    image = image_from_bytes(write_elf(symbols), path)
    return Module(path, image, bias, VirtAddr(bias + TEXT), VirtAddr(bias + TEXT + 0x1000), is_main)


MAIN = _module(
    "/usr/bin/prog3.11",
    0x400000,
    ElfSymbol("main", TEXT, 32),
    ElfSymbol("both", TEXT + 32),
    is_main=True,
)
LIBC = _module(
    "/usr/lib/libc.so.6",
    0x7F0000000000,
    ElfSymbol("both", TEXT, 16),
    ElfSymbol("malloc", TEXT + 16, 16),
    ElfSymbol("__libc_malloc", TEXT + 16, 16),
    ElfSymbol("memcpy@OLD", TEXT + 32, 16),
    ElfSymbol("memcpy@@NEW", TEXT + 48, 16, kind=STT_GNU_IFUNC),
    ElfSymbol("memset", TEXT + 64, 16),
)
OTHER = _module("/opt/libother-1.2.so", 0x7F1000000000, ElfSymbol("malloc", TEXT, 16))
MODULES = [MAIN, LIBC, OTHER]


def _resolve(text: str) -> list[tuple[str, int]]:
    return [(place.label, place.address) for place in resolve(parse_spec(text), MODULES)]


def test_a_bare_symbol_means_the_main_programs_if_it_has_one() -> None:
    assert _resolve("both") == [("both", 0x400000 + TEXT + 32)]


def test_a_bare_symbol_that_the_program_lacks_means_every_modules() -> None:
    assert _resolve("malloc") == [
        ("malloc", 0x7F0000000000 + TEXT + 16),
        ("malloc", 0x7F1000000000 + TEXT),
    ]


def test_a_modules_symbol_is_only_looked_for_there() -> None:
    assert _resolve("libc:both") == [("both", 0x7F0000000000 + TEXT)]
    assert _resolve("libother:both") == []


def test_aliases_are_one_place_with_the_name_that_was_asked_for() -> None:
    assert _resolve("libc:__libc_malloc") == [("__libc_malloc", 0x7F0000000000 + TEXT + 16)]
    assert _resolve("libc:*malloc") == [("malloc", 0x7F0000000000 + TEXT + 16)]


def test_an_offset_is_added_and_shown() -> None:
    assert _resolve("libc:malloc+4") == [("malloc+0x4", 0x7F0000000000 + TEXT + 20)]


def test_an_offset_beyond_the_function_is_refused() -> None:
    with pytest.raises(BadAddress, match=r"malloc in libc\.so\.6 has only 16 bytes"):
        _resolve("libc:malloc+16")


def test_an_offset_that_is_too_large_for_one_of_several_is_left_out_there() -> None:
    small = _module("/lib/small.so", 0x7F2000000000, ElfSymbol("malloc", TEXT, 2))
    spec = parse_spec("malloc+4")

    assert [place.module for place in resolve(spec, [MAIN, small, LIBC])] == [LIBC]
    with pytest.raises(BadAddress, match="has only 2 bytes"):
        resolve(spec, [MAIN, small])


def test_a_module_that_was_damaged_after_it_was_loaded_hides_no_other(tmp_path: Path) -> None:
    # GIVEN a library that is cut short once it is open
    path = tmp_path / "damaged.so"
    path.write_bytes(write_elf([ElfSymbol("malloc", TEXT)]))
    image = open_image(str(path))
    os.truncate(path, 4096)
    damaged = Module(str(path), image, 0, VirtAddr(TEXT), VirtAddr(TEXT + 0x1000), False)

    # THEN what others have is found, and who asks for the library is told
    assert [p.module for p in resolve(parse_spec("malloc"), [damaged, LIBC])] == [LIBC]
    with pytest.raises(UnreadableElf, match="cut short"):
        resolve(parse_spec("damaged:malloc"), [damaged, LIBC])
    error = explain_missing(parse_spec("maloc"), [damaged, LIBC])
    assert "malloc" in str(error)


def test_an_offset_into_an_ifunc_is_left_for_its_target() -> None:
    (place,) = resolve(parse_spec("libc:memcpy+4"), MODULES)

    assert place.is_ifunc
    assert place.address == 0x7F0000000000 + TEXT + 48
    assert (place.offset, place.label) == (4, "memcpy+0x4")


def test_a_version_chooses_among_the_symbols_of_a_name() -> None:
    assert _resolve("libc:memcpy") == [("memcpy", 0x7F0000000000 + TEXT + 48)]
    assert _resolve("libc:memcpy@OLD") == [("memcpy@OLD", 0x7F0000000000 + TEXT + 32)]
    assert [label for label, _ in _resolve("libc:mem*")] == ["memcpy@OLD", "memcpy", "memset"]


def test_an_address_is_virtual_without_a_module_and_the_files_with_one() -> None:
    (place,) = resolve(parse_spec(f"{0x7F0000000000 + TEXT + 20:#x}"), MODULES)

    assert place.label == f"{0x7F0000000000 + TEXT + 20:#x}"
    assert place.symbol is not None
    assert place.symbol.name == "malloc"
    assert _resolve("libc:0x1010") == [("0x1010", 0x7F0000000000 + TEXT + 16)]
    assert _resolve("0x10") == []


def test_an_address_of_a_module_that_is_no_code_is_refused() -> None:
    with pytest.raises(BadAddress, match=r"libc\.so\.6 has no code there"):
        _resolve("libc:0x10")


def test_a_misspelt_symbol_brings_up_the_close_ones() -> None:
    error = explain_missing(parse_spec("libc:maloc"), MODULES)

    assert isinstance(error, SymbolNotFound)
    assert str(error).startswith("no symbol 'maloc' in libc.so.6; close names: malloc")


def test_a_symbol_of_another_module_brings_up_that_module() -> None:
    error = explain_missing(parse_spec("prog3.11:memset"), MODULES)

    assert str(error).endswith("close names: libc.so.6:memset")


def test_a_version_that_is_not_there_brings_up_those_that_are() -> None:
    error = explain_missing(parse_spec("libc:memcpy@V9"), MODULES)

    assert str(error) == ("no symbol 'memcpy@V9' in libc.so.6; close names: memcpy@NEW, memcpy@OLD")


def test_a_module_that_is_not_loaded_brings_up_those_that_are() -> None:
    error = explain_missing(parse_spec("libfoo:malloc"), MODULES)

    assert isinstance(error, ModuleNotLoaded)
    assert str(error) == (
        "no module 'libfoo' is loaded; there are: prog3.11, libc.so.6, libother-1.2.so"
    )


def test_an_address_outside_every_module_is_said_to_be() -> None:
    error = explain_missing(parse_spec("0x10"), MODULES)

    assert isinstance(error, BadAddress)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (LIBC, ["libc", "libc.so", "libc.so.6", "/usr/lib/libc.so.6"]),
        (OTHER, ["libother", "libother-1.2", "libother-1.2.so"]),
        (MAIN, ["prog3", "prog3.11", "/usr/bin/prog3.11"]),
    ],
)
def test_a_module_goes_by_its_path_its_name_and_its_stem(module: Module, names: list[str]) -> None:
    for name in names:
        assert module.matches(name), name
        assert [other for other in MODULES if other.matches(name)] == [module]


@pytest.mark.parametrize(
    "name", ["lib", "c", "libcrypto", "", "so.6", "/lib", "libc.so.6.1", "./libc"]
)
def test_a_module_goes_by_nothing_else(name: str) -> None:
    assert not LIBC.matches(name)
