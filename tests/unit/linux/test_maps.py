"""Lines of /proc/PID/maps are taken apart as the kernel put them together."""

from __future__ import annotations

import mmap
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.errors import NoSuchProcess
from ptrace_uprobes.linux.maps import Mapping, parse_maps, read_maps

TEXT = """\
55d0c8a00000-55d0c8a02000 r--p 00000000 fd:01 1837                       /usr/bin/cat
55d0c8a02000-55d0c8a07000 r-xp 00002000 fd:01 1837                       /usr/bin/cat
55d0ca2f1000-55d0ca312000 rw-p 00000000 00:00 0                          [heap]
7f3a5c000000-7f3a5c021000 rw-p 00000000 00:00 0 
7f3a5e600000-7f3a5e700000 rwxs 0001f000 00:05 99                         /dev/shm/a name (deleted)
7ffd2b1c5000-7ffd2b1c7000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291  # the kernel ends a line without a path with a blank


def test_every_field_of_a_line_is_there() -> None:
    assert parse_maps(TEXT)[1] == Mapping(
        start=0x55D0C8A02000,  # type: ignore[arg-type]  # plain numbers compare equal
        end=0x55D0C8A07000,  # type: ignore[arg-type]
        permissions="r-xp",
        offset=0x2000,  # type: ignore[arg-type]
        device="fd:01",
        inode=1837,
        path="/usr/bin/cat",
        deleted=False,
    )


def test_the_mappings_come_in_the_kernels_order() -> None:
    assert [m.path for m in parse_maps(TEXT)] == [
        *("/usr/bin/cat", "/usr/bin/cat", "[heap]", "", "/dev/shm/a name", "[vdso]", "[vsyscall]")
    ]


def test_the_letters_of_the_permissions_are_told_apart() -> None:
    code, heap, shared = (parse_maps(TEXT)[n] for n in (1, 2, 4))
    assert (code.is_executable, code.is_writable, code.is_private) == (True, False, True)
    assert (heap.is_executable, heap.is_writable, heap.is_private) == (False, True, True)
    assert (shared.is_executable, shared.is_writable, shared.is_private) == (True, True, False)


def test_only_what_has_an_inode_and_a_path_is_a_file() -> None:
    assert [m.is_file for m in parse_maps(TEXT)] == [True, True, False, False, True, False, False]


def test_a_file_that_was_unlinked_is_known_by_its_name_and_said_to_be_deleted() -> None:
    assert [m.deleted for m in parse_maps(TEXT)].index(True) == 4
    assert parse_maps(TEXT)[4].path == "/dev/shm/a name"


def test_a_newline_in_a_name_is_a_newline_again() -> None:
    line = "1000-2000 r-xp 00000000 08:01 7 /tmp/two\\012lines\n"
    assert parse_maps(line)[0].path == "/tmp/two\nlines"


def test_a_mapping_holds_its_first_address_and_not_its_end() -> None:
    mapping = parse_maps("1000-3000 r-xp 0 08:01 7 /a\n")[0]
    assert mapping.size == 0x2000
    assert [mapping.contains(a) for a in (0xFFF, 0x1000, 0x2FFF, 0x3000)] == [
        *(False, True, True, False)
    ]


# What seq_path(m, path, "\n") leaves as it is: every byte but a newline and a NUL.
file_names = st.text(
    st.characters(exclude_characters="\n\0\\/", exclude_categories=["Cs"]), min_size=1
).filter(lambda name: not name.endswith(" (deleted)"))


@given(file_names)
def test_any_file_name_comes_out_as_it_is(name: str) -> None:
    line = f"1000-2000 r-xp 00000000 08:01 7                          /tmp/{name}\n"
    assert [m.path for m in parse_maps(line + TEXT)[:1]] == [f"/tmp/{name}"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, (1 << 47) - 1),
            st.integers(1, 1 << 30),
            st.text("rwxps-", min_size=4, max_size=4),
            st.integers(0, 1 << 40),
            st.integers(0, 1 << 60),
        )
    )
)
def test_numbers_of_any_size_come_out_as_they_were_printed(
    rows: list[tuple[int, int, str, int, int]],
) -> None:
    text = "".join(
        f"{start:x}-{start + size:x} {permissions} {offset:08x} fd:01 {inode} \n"
        for start, size, permissions, offset, inode in rows
    )
    assert [(m.start, m.size, m.permissions, m.offset, m.inode) for m in parse_maps(text)] == rows


def test_our_own_mappings_are_read_in_order_and_hold_what_we_mapped(tmp_path: Path) -> None:
    # GIVEN a file that is mapped into us and unlinked
    file = tmp_path / "with a blank"
    file.write_bytes(bytes(8192))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8192):
        inode = os.fstat(opened.fileno()).st_ino
        file.unlink()

        # WHEN our own mappings are read
        mappings = read_maps(os.getpid())

    # THEN it is among them, and they do not overlap
    mine = [m for m in mappings if m.path == str(file)]
    assert [(m.inode, m.size, m.deleted, m.is_private) for m in mine] == [
        (inode, 8192, True, False)
    ]
    assert all(a.end <= b.start for a, b in pairwise(mappings))
    assert any(m.path == "[stack]" for m in mappings)


def test_a_mapped_file_may_have_any_name(tmp_path: Path) -> None:
    file = tmp_path / "carriage\rreturn"
    file.write_bytes(b"x")
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 1, access=mmap.ACCESS_READ),
    ):
        assert str(file) in [m.path for m in read_maps(os.getpid())]


def test_a_process_that_is_gone_is_said_to_be() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(NoSuchProcess) as caught:
        read_maps(child)
    assert caught.value.pid == child
