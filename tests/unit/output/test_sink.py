"""The sink gathers lines, writes them whole, and keeps a failure until it is asked."""

from __future__ import annotations

import fcntl
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptrace_uprobes.errors import OutputError
from ptrace_uprobes.output.sink import Sink


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass  # the test closed it


def test_what_was_written_is_in_the_file_when_the_sink_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "hits"
    path.write_text("left from an earlier run, and longer than what comes now")
    with Sink.open(str(path)) as sink:
        for number in range(3):
            sink.write(f"line {number}\n")
    sink.check()
    assert path.read_text() == "line 0\nline 1\nline 2\n"


def test_lines_for_a_file_are_gathered(tmp_path: Path) -> None:
    sink = Sink.open(str(tmp_path / "hits"))
    sink.write("one\n")
    assert (tmp_path / "hits").read_text() == ""
    with sink:
        pass
    assert (tmp_path / "hits").read_text() == "one\n"


def test_gathered_lines_appear_without_another_hit(pipe: tuple[int, int]) -> None:
    # GIVEN a sink on a pipe
    read_end, write_end = pipe
    with Sink.over(write_end, "the pipe") as sink:
        sink.flush_regularly()
        # WHEN one line is written, and no second one follows
        sink.write("one\n")

        # THEN it comes by itself
        assert select.select([read_end], [], [], 30)[0]
        assert os.read(read_end, 100) == b"one\n"


def test_a_terminal_gets_each_line_at_once() -> None:
    controller, terminal = os.openpty()
    try:
        sink = Sink.over(terminal, "the terminal")
        sink.write("one\n")
        with open(controller, "rb", closefd=False) as shown:
            assert shown.readline() == b"one\r\n"
    finally:
        os.close(controller)
        os.close(terminal)


def test_no_line_is_torn_by_another_writer_of_the_same_pipe(pipe: tuple[int, int]) -> None:
    # GIVEN a pipe that the probed program writes to as well
    read_end, write_end = pipe
    received = bytearray()

    def read_all() -> None:
        while part := os.read(read_end, 1 << 16):
            received.extend(part)

    def interfere() -> None:
        for _ in range(2000):
            os.write(write_end, b"the program's own line\n")

    reader = threading.Thread(target=read_all)
    program = threading.Thread(target=interfere)
    reader.start()

    # WHEN both write a lot
    with Sink.over(write_end, "the pipe") as sink:
        sink.flush_regularly()
        program.start()
        for number in range(5000):
            sink.write(f"hit {number} {'x' * 50}\n")
        program.join()
    os.close(write_end)
    reader.join()

    # THEN every line is one of ours, in order, or one of theirs
    lines = received.decode().splitlines()
    assert [line for line in lines if line.startswith("hit")] == [
        f"hit {number} {'x' * 50}" for number in range(5000)
    ]
    assert lines.count("the program's own line") == 2000
    assert len(lines) == 7000


def test_a_full_disk_is_reported_once_and_writing_goes_on_without_raising() -> None:
    # GIVEN a device that is always full
    stops = []
    with Sink.open("/dev/full") as sink:
        sink.on_failure = lambda: stops.append("stop")
        # WHEN lines are written to it, again and again
        for _ in range(3):
            sink.write("line\n")
            sink.flush()
    # THEN the engine was told once, and the error says what and why
    assert stops == ["stop"]
    with pytest.raises(OutputError, match=r"cannot write to /dev/full: No space left on device"):
        sink.check()


def test_a_closed_pipe_is_a_failure_and_no_signal(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    os.close(read_end)
    with Sink.over(write_end, "standard error") as sink:
        sink.write("line\n")
    with pytest.raises(OutputError, match="cannot write to standard error: Broken pipe"):
        sink.check()


def test_a_reader_that_does_not_read_cannot_keep_us_from_ending(pipe: tuple[int, int]) -> None:
    # GIVEN a full pipe that nobody reads
    _, write_end = pipe
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, b"x" * 4096)
    # WHEN the user wants to end
    with Sink.over(write_end, "standard error") as sink:
        sink.write("line\n")
        sink.hasten()
    # THEN closing returns, and what was lost is an error
    with pytest.raises(OutputError, match="its reader has stopped reading"):
        sink.check()


def test_nor_can_a_terminal_that_nobody_reads() -> None:
    # GIVEN a terminal that takes the beginning of what is written, and that nobody reads
    controller, terminal = os.openpty()
    try:
        with Sink.over(terminal, "standard error") as sink:
            # WHEN the user wants to end
            sink.hasten()
            sink.write("line\n" * 10000)
        # THEN writing returns, and what was lost is an error
        with pytest.raises(OutputError, match="its reader has stopped reading"):
            sink.check()
        # AND who has the same open file finds it as it was
        assert os.get_blocking(terminal)
    finally:
        os.close(controller)
        os.close(terminal)


def test_a_terminal_with_a_slow_reader_gets_everything() -> None:
    # GIVEN a terminal that is full now and then, also in the middle of a line's end
    controller, terminal = os.openpty()
    text = "".join(f"line {number}\n" for number in range(20000))
    wanted = text.replace("\n", "\r\n").encode()
    received = bytearray()

    def read_all() -> None:
        while len(received) < len(wanted):
            received.extend(os.read(controller, 4095))

    reader = threading.Thread(target=read_all)
    try:
        # WHEN more is written than it holds
        with Sink.over(terminal, "the terminal") as sink:
            reader.start()
            sink.write(text)
        reader.join()
    finally:
        os.close(controller)
        os.close(terminal)
    # THEN all of it arrives
    assert received == wanted
    sink.check()


def test_a_non_blocking_descriptor_loses_nothing(pipe: tuple[int, int]) -> None:
    # GIVEN a pipe that someone made non-blocking, and a reader that starts when it is full
    read_end, write_end = pipe
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write_end, False)
    received = bytearray()

    def read_all() -> None:
        while part := os.read(read_end, 1 << 16):
            received.extend(part)

    reader = threading.Thread(target=read_all)
    text = "".join(f"line {number}\n" for number in range(5000))
    # WHEN more is written than it holds
    with Sink.over(write_end, "the pipe") as sink:
        reader.start()
        sink.write(text)
    os.close(write_end)
    reader.join()
    # THEN all of it arrives
    sink.check()
    assert received.decode() == text


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/hits", "No such file or directory"),
        ("", "No such file or directory"),
        (".", "Is a directory"),
        ("nul\0", "embedded null byte"),
    ],
)
def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path, path: str, reason: str) -> None:
    wanted = str(tmp_path / path) if path else ""
    with pytest.raises(OutputError, match=reason):
        Sink.open(wanted)


def test_names_that_are_not_utf8_are_written_as_they_are(tmp_path: Path) -> None:
    with Sink.open(str(tmp_path / "hits")) as sink:
        sink.write(os.fsdecode(b"\xff\xfe\n"))
    assert (tmp_path / "hits").read_bytes() == b"\xff\xfe\n"
