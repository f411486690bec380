"""Debug files are looked for where distributions put them, and believed only if they fit."""

from __future__ import annotations

import zlib
from pathlib import Path

from ptrace_uprobes.symbols.debug_files import DebugLink, candidates, crc_matches
from ptrace_uprobes.symbols.source import FileSource

LINK = DebugLink("prog.debug", 0x1234)


def test_the_build_id_comes_first_then_the_link_beside_the_file() -> None:
    found = list(candidates("/usr/bin/prog", "", bytes.fromhex("abcdef"), LINK, "/usr/lib/debug"))

    assert found == [
        ("/usr/lib/debug/.build-id/ab/cdef.debug", None),
        ("/usr/bin/prog.debug", 0x1234),
        ("/usr/bin/.debug/prog.debug", 0x1234),
        ("/usr/lib/debug/usr/bin/prog.debug", 0x1234),
        ("/usr/lib/debug/bin/prog.debug", 0x1234),
    ]


def test_a_program_in_a_container_is_looked_up_in_both_file_systems() -> None:
    found = [path for path, _ in candidates("/bin/p", "/proc/7/root", b"\xab\xcd", LINK, "/d")]

    assert found == [
        "/d/.build-id/ab/cd.debug",
        "/proc/7/root/d/.build-id/ab/cd.debug",
        "/proc/7/root/bin/prog.debug",
        "/proc/7/root/bin/.debug/prog.debug",
        "/proc/7/root/d/bin/prog.debug",
        "/bin/prog.debug",
        "/bin/.debug/prog.debug",
        "/d/bin/prog.debug",
    ]


def test_a_file_that_names_no_debug_file_has_none() -> None:
    assert list(candidates("/bin/p", "", None, None, "/d")) == []


def test_the_checksum_is_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "debug"
    path.write_bytes(bytes(range(256)) * 5000)

    source = FileSource(str(path), "debug")

    assert crc_matches(source, zlib.crc32(path.read_bytes()))
    assert not crc_matches(source, 0)
    source.close()
