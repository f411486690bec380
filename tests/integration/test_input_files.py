"""Files named to the command that are none, or hold anything: one line says so, and it ends."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.command import run, running
from tests.support.procfs import wait_until

GARBAGE = random.Random(3).randbytes(200_000)
TRACE = "# tracer: nop\n sort-1 [000] ..... 1.000001: sys_write(fd: 1)\n"
HIT = "sort-1 [000] 1.000000: libc:malloc: (0x1)\n1 hit, 0 missed; exit status 0\n"


def test_definitions_in_a_pipe_that_nobody_writes_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    refused = run("-e", f"@{fifo}", "true")
    assert refused.status == 2
    assert refused.error == (
        f"cannot read definitions from '{fifo}': it is a pipe that nobody writes to"
    )


def test_ctrl_c_ends_the_wait_for_a_writer(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    silent = os.open(fifo, os.O_RDWR)  # a writer
    try:
        with running("-e", f"@{fifo}", "true") as command:
            wait_until("it is open", lambda: str(fifo) in _open_files(command.pid))
            command.send_signal(signal.SIGINT)
            assert command.wait(timeout=20) == 128 + signal.SIGINT
            assert command.stderr is not None
            assert "Traceback" not in command.stderr.read()
    finally:
        os.close(silent)


def _open_files(pid: int) -> list[str]:
    found = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(one))
    return found


def test_definitions_come_through_a_pipe(tmp_path: Path) -> None:
    probed = run("-e", "@/dev/stdin", "--count", "sort", "/dev/null", stdin="libc:setlocale\n")
    assert probed.status == 0
    assert "libc:setlocale" in probed.stderr


@pytest.mark.parametrize("content", [GARBAGE, b"\0" * 5000, b"a" * (17 << 20), b"(" * 100_000])
def test_definitions_that_are_none_are_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "probes"
    file.write_bytes(content)
    refused = run("-e", f"@{file}", "true")
    assert refused.status == 2
    assert str(file) in refused.error
    assert len(refused.error) < 2000


def test_a_file_of_many_thousand_unknown_names_is_one_line(tmp_path: Path) -> None:
    # It took five minutes for 100,000: what takes time with the number of probes each has.
    file = tmp_path / "probes"
    file.write_text("".join(f"libc:no_such_{number} size=%di\n" for number in range(10_000)))
    refused = run("-e", f"@{file}", "true")
    assert refused.status == 1
    assert refused.error.startswith("no symbol 'no_such_0' in libc.so.6")


@pytest.mark.parametrize("is_trace", [True, False])
@pytest.mark.parametrize("other", ["/", "/dev/zero", "garbage", "none"])
def test_what_cannot_be_merged_is_one_line(tmp_path: Path, other: str, is_trace: bool) -> None:
    (tmp_path / "garbage").write_bytes(GARBAGE)
    (tmp_path / "trace").write_text(
        "# tracer: nop\n sort-1 [000] ..... 1.000001: sys_write(fd: 1)\n"
    )
    (tmp_path / "hits").write_text(HIT)
    trace, hits = (other, "hits") if is_trace else ("trace", other)
    refused = run("--merge", tmp_path / trace, "-o", tmp_path / "both", tmp_path / hits)
    assert refused.status == 1
    assert refused.error.startswith("cannot ")
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("other", ["fifo.py", "/", "/dev/zero", "garbage.py", "nuls.py", "none"])
def test_what_is_no_handler_file_is_one_line(tmp_path: Path, other: str) -> None:
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "garbage.py").write_bytes(GARBAGE)
    (tmp_path / "nuls.py").write_bytes(bytes(5000))
    refused = run("-e", "libc:malloc", "--handler", f"{tmp_path / other}:f", "true")
    assert refused.status == 1
    assert refused.error.startswith(f"cannot load handler file {tmp_path / other}")


def test_a_pipe_is_merged_too(tmp_path: Path) -> None:
    (tmp_path / "hits").write_text(HIT)
    merged = run("--merge", "/dev/stdin", tmp_path / "hits", stdin=TRACE)
    assert merged.status == 0, merged.stderr
    assert "sys_write" in merged.stdout
    assert "malloc" in merged.stdout
