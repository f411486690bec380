"""What a user names as input is read to its end, or refused: it keeps nobody waiting."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ptrace_uprobes.definition.definition_file import read_definitions
from ptrace_uprobes.errors import InputError, UsageError
from ptrace_uprobes.input_file import open_input


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one\n" * 100_000)
    with open_input(str(file)) as opened:
        assert opened.readline() == b"one\n"
        assert len(opened.read()) == 4 * 99_999


def test_a_pipe_that_nobody_writes_to_is_given_up(fifo: str) -> None:
    with (
        open_input(fifo, nobody=0.05, silence=0.05) as opened,
        pytest.raises(InputError, match="fifo: it is a pipe that nobody writes to"),
    ):
        opened.read()


def test_a_writer_that_says_nothing_is_given_up(fifo: str) -> None:
    keeps_it_open = os.open(fifo, os.O_RDWR)
    try:
        for said in (b"", b"a line\n"):
            os.write(keeps_it_open, said)
            with (
                open_input(fifo, nobody=0.05, silence=0.05) as opened,
                pytest.raises(InputError, match=r"nothing has come from it for 0\.05 s"),
            ):
                opened.read()
    finally:
        os.close(keeps_it_open)


def test_a_writer_that_comes_late_and_writes_in_pieces_is_read_to_the_end(fifo: str) -> None:
    with open_input(fifo) as opened:
        pieces = [b"x" * 70_000, b"libc:malloc\n", b"end"]

        def write() -> None:
            with open(fifo, "wb", buffering=0) as file:
                for piece in pieces:
                    file.write(piece)

        writer = threading.Timer(0.1, write)
        writer.start()
        assert opened.read() == b"".join(pieces)
        writer.join()


def test_a_pipe_that_holds_nothing_is_an_empty_file() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    try:
        with open_input(f"/proc/self/fd/{reading}") as opened:
            assert opened.read() == b""
    finally:
        os.close(reading)


def test_the_empty_device_is_an_empty_file() -> None:
    with open_input("/dev/null") as file:
        assert file.read() == b""


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/urandom"])
def test_a_device_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"^cannot read {device}: it is a device"):
        open_input(device)
    with pytest.raises(UsageError, match="it is a device"):
        read_definitions(device)


def test_a_terminal_is_read_as_long_as_its_user_takes() -> None:
    user, terminal = os.openpty()
    try:
        with open_input(os.ttyname(terminal), silence=0.05) as opened:
            typing = threading.Timer(0.2, os.write, (user, b"libc:malloc\n\x04"))
            typing.start()
            assert opened.read() == b"libc:malloc\n"
            typing.join()
    finally:
        os.close(user)
        os.close(terminal)


def test_an_error_while_reading_is_one_of_ours() -> None:
    with (
        open_input("/proc/self/mem") as opened,
        pytest.raises(InputError, match=r"^cannot read /proc/self/mem: Input/output error"),
    ):
        opened.read(1)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (str(tmp_path), "/dev/zero", str(tmp_path / "none"), "a\0b"):
        with pytest.raises(InputError):
            open_input(path)
    with open_input("/proc/self/status") as opened:
        opened.readline()
    assert len(os.listdir("/proc/self/fd")) == before
