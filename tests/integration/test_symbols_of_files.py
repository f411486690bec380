"""What nm, readelf and objcopy say of a file is what its image says."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ptrace_uprobes.symbols.image import Image, open_image
from tests.support.build import TARGETS, build_target
from tests.support.elf_tools import functions
from tests.support.versioned import versioned_library

LINKS = {
    "PIE": ("-fPIE", "-pie"),
    "fixed address": ("-fno-pie", "-no-pie"),
    "static": ("-static", "-fno-pie", "-no-pie"),
    "static PIE": ("-static-pie", "-fPIE"),
    "SysV hash only": ("-fPIE", "-pie", "-Wl,--hash-style=sysv"),
    "GNU hash only": ("-fPIE", "-pie", "-Wl,--hash-style=gnu", "-rdynamic"),
}
LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")


@pytest.fixture(params=[*LINKS.values()], ids=[*LINKS])
def program(request: pytest.FixtureRequest) -> Path:
    return build_target("sleeper.c", "-Wl,--build-id", *request.param)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _assert_same_functions(path: Path, image: Image) -> None:
    """Every function that nm lists is found by name, and by a pattern, and nothing else is."""
    expected = {
        (name, function.address)
        for name, function in functions(path).items()
        if function.size and image.is_code(function.address)
    }
    assert expected
    found = {(s.name, s.address) for s in image.glob("*")}
    assert expected <= found
    for name, address in list(expected)[:300]:
        assert address in {s.address for s in image.lookup(name)}, name
        named = image.symbol_at(next(s.address for s in image.lookup(name)))
        assert named is not None
        assert named[1] == 0


def test_the_functions_of_a_program_are_those_that_nm_lists(program: Path) -> None:
    _assert_same_functions(program, open_image(str(program)))


def test_the_functions_of_a_stripped_library_are_those_that_nm_lists(tmp_path: Path) -> None:
    stripped = tmp_path / "libversioned.so.1"
    _run("strip", "-o", stripped, versioned_library())

    image = open_image(str(stripped))

    _assert_same_functions(stripped, image)
    assert image.lookup("helper") == []


@pytest.mark.skipif(not LIBC.exists(), reason="no libc where Debian has it")
def test_the_functions_of_libc_are_those_that_nm_lists() -> None:
    _assert_same_functions(LIBC, open_image(str(LIBC)))


def test_a_program_says_what_readelf_says_of_it(program: Path) -> None:
    image = open_image(str(program))

    header = _run("readelf", "-hlnW", program)
    assert image.is_position_independent == (re.search(r"Type: +DYN", header) is not None)
    entry = re.search(r"Entry point address: +(0x\w+)", header)
    assert entry is not None
    assert image.entry == int(entry[1], 16)
    interpreter = re.search(r"program interpreter: (\S+)\]", header)
    assert image.interpreter == (interpreter[1] if interpreter else None)
    build_id = re.search(r"Build ID: (\w+)", header)
    assert build_id is not None
    assert image.build_id == bytes.fromhex(build_id[1])
    loads = re.findall(r"LOAD +(0x\w+) (0x\w+) 0x\w+ (0x\w+) (0x\w+) (...)", header)
    assert [
        (s.offset, s.address, s.file_size, s.memory_size, s.is_executable, s.is_writable)
        for s in image.segments
    ] == [(*(int(n, 16) for n in row[:4]), "E" in row[4], "W" in row[4]) for row in loads]


def test_without_section_headers_the_dynamic_section_leads_to_the_symbols(tmp_path: Path) -> None:
    # GIVEN a library whose section headers are gone, as some packers leave it
    for style in ("gnu", "sysv"):
        library = build_target(
            "versioned.c",
            "-shared",
            "-fPIC",
            f"-Wl,--version-script={TARGETS / 'versioned.map'}",
            f"-Wl,--hash-style={style}",
            name="libversioned.so.1",
        )
        data = bytearray(library.read_bytes())
        struct.pack_into("<Q", data, 40, 0)  # e_shoff
        struct.pack_into("<H", data, 60, 0)  # e_shnum
        bare = tmp_path / f"lib-{style}.so"
        bare.write_bytes(data)

        # THEN its dynamic symbols are found as before, and with their versions
        image, whole = open_image(str(bare)), open_image(str(library))
        for name, version in (("copy", None), ("copy", "V1"), ("plain", None), ("chosen", "V2")):
            assert image.lookup(name, version) == whole.lookup(name, version) != []
        assert image.lookup("helper") == []


def test_versions_aliases_and_ifuncs_are_told_apart() -> None:
    image = open_image(str(versioned_library()))
    by_nm = {
        line.split()[2]: int(line.split()[0], 16)
        for line in _run("nm", "-D", "--defined-only", versioned_library()).splitlines()
    }

    assert [s.address for s in image.lookup("copy")] == [by_nm["copy@@V2"]]
    assert [s.address for s in image.lookup("copy", "V2")] == [by_nm["copy@@V2"]]
    assert [s.address for s in image.lookup("copy", "V1")] == [by_nm["copy@V1"]]
    assert image.lookup("alias")[0].address == image.lookup("plain")[0].address
    (chosen,) = image.lookup("chosen")
    assert chosen.is_ifunc
    assert not image.lookup("plain")[0].is_ifunc
    assert image.soname == "libversioned.so.1"


@pytest.fixture
def stripped_program(tmp_path: Path) -> tuple[Path, Path]:
    """A stripped program and its debug file, each alone in a directory."""
    whole = build_target("sleeper.c", "-Wl,--build-id")
    program, debug = tmp_path / "bin" / "prog", tmp_path / "made" / "prog.debug"
    program.parent.mkdir()
    debug.parent.mkdir()
    _run("objcopy", "--only-keep-debug", whole, debug)
    _run("strip", "-o", program, whole)
    return program, debug


def _idle(program: Path, debug_root: Path) -> list[int]:
    return [s.address for s in open_image(str(program), debug_root=str(debug_root)).lookup("idle")]


def _expected_idle() -> list[int]:
    return [functions(build_target("sleeper.c", "-Wl,--build-id"))["idle"].address]


def test_a_debug_file_is_found_by_its_build_id(
    stripped_program: tuple[Path, Path], tmp_path: Path
) -> None:
    program, debug = stripped_program
    assert _idle(program, tmp_path / "nowhere") == []

    build_id = open_image(str(program)).build_id
    assert build_id is not None
    root = tmp_path / "debug"
    place = root / ".build-id" / build_id.hex()[:2] / f"{build_id.hex()[2:]}.debug"
    place.parent.mkdir(parents=True)
    shutil.copy(debug, place)

    assert _idle(program, root) == _expected_idle()


@pytest.mark.parametrize("where", ["beside", "dot-debug", "global"])
def test_a_debug_file_is_found_by_its_link(
    stripped_program: tuple[Path, Path], tmp_path: Path, where: str
) -> None:
    # GIVEN a program without a build ID, with a link to its debug file
    program, debug = stripped_program
    _run("objcopy", "--remove-section=.note.gnu.build-id", program)
    _run("objcopy", f"--add-gnu-debuglink={debug}", program)
    root = tmp_path / "debug"
    directory = {
        "beside": program.parent,
        "dot-debug": program.parent / ".debug",
        "global": root / str(program.parent.resolve()).lstrip("/"),
    }[where]
    directory.mkdir(parents=True, exist_ok=True)

    # WHEN a file of that name and another content is there, it is not believed
    (directory / "prog.debug").write_bytes(debug.read_bytes() + b"\0")
    assert _idle(program, root) == []

    # WHEN the debug file is there, it is, through a link to the program too
    shutil.copy(debug, directory / "prog.debug")
    (tmp_path / "link").symlink_to(program)
    os.utime(program)  # an image is kept as long as its file is unchanged
    assert _idle(program, root) == _expected_idle()
    assert _idle(tmp_path / "link", root) == _expected_idle()


def test_a_debug_file_of_another_build_is_not_believed(
    stripped_program: tuple[Path, Path], tmp_path: Path
) -> None:
    program, _ = stripped_program
    build_id = open_image(str(program)).build_id
    assert build_id is not None
    other = build_target("hot_loop.c", "-Wl,--build-id")
    root = tmp_path / "debug"
    place = root / ".build-id" / build_id.hex()[:2] / f"{build_id.hex()[2:]}.debug"
    place.parent.mkdir(parents=True)
    shutil.copy(other, place)

    image = open_image(str(program), debug_root=str(root))

    assert [s.name for s in image.glob("*") if s.name == "main"] == []


def test_a_compressed_symbol_table_within_the_file_is_read(
    stripped_program: tuple[Path, Path], tmp_path: Path
) -> None:
    program, debug = stripped_program
    packed = tmp_path / "packed.xz"
    packed.write_bytes(lzma.compress(debug.read_bytes()))
    _run("objcopy", f"--add-section=.gnu_debugdata={packed}", program)

    assert _idle(program, tmp_path / "nowhere") == _expected_idle()


def test_a_compressed_symbol_table_that_is_damaged_is_as_none(
    stripped_program: tuple[Path, Path], tmp_path: Path
) -> None:
    program, debug = stripped_program
    packed = tmp_path / "packed.xz"
    packed.write_bytes(lzma.compress(debug.read_bytes())[:-40])
    _run("objcopy", f"--add-section=.gnu_debugdata={packed}", program)

    assert _idle(program, tmp_path / "nowhere") == []
