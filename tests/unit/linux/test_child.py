"""Children are started as any launcher would start them, and wait until they are let go."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from ptrace_uprobes.linux.child import kill_quietly, spawn_doorbell, spawn_paused
from tests.support.procfs import process_state, status_fields, wait_until

_WALL = 0x40000000
SHELL = "/bin/sh"


def _run(
    script: str, *, environment: dict[str, str] | None = None, cwd: str | None = None
) -> tuple[int, str]:
    """The status and output of a shell script."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    child = spawn_paused(
        [SHELL], ["sh", "-c", f"exec >/proc/self/fd/{write}; {script}"], environment, cwd
    )
    os.close(write)
    child.release()
    assert child.failure() == 0
    with os.fdopen(read, "rb") as output:
        text = output.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]), text


def _failure(paths: Sequence[str], cwd: str | None = None) -> int:
    child = spawn_paused(paths, ["command"], None, cwd)
    child.release()
    failure = child.failure()
    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 125
    return failure


def _executable(path: Path, status: int) -> str:
    path.write_text(f"#!{SHELL}\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


def test_a_child_waits_until_it_is_released() -> None:
    # GIVEN a child
    child = spawn_paused([SHELL], ["sh", "-c", "exit 7"], None, None)
    wait_until("it waits", lambda: process_state(child.pid) == "S")

    # THEN it is not the program yet
    assert os.readlink(f"/proc/{child.pid}/exe") == os.readlink("/proc/self/exe")

    # AND is, once it is let go
    child.release()
    assert child.failure() == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 7


def test_a_child_whose_parent_gives_up_ends_without_having_run_anything() -> None:
    # GIVEN a parent that ends before it lets its child go
    read, write = os.pipe()
    os.set_inheritable(write, True)
    parent = os.fork()
    if parent == 0:
        child = spawn_paused([SHELL], ["sh", "-c", f"echo ran >/proc/self/fd/{write}"], None, None)
        os._exit(0 if child.pid else 1)
    os.waitpid(parent, 0)
    os.close(write)

    # THEN the pipe that both held closes with nothing in it
    with os.fdopen(read, "rb") as output:
        assert output.read() == b""


def test_arguments_environment_and_directory_are_those_given(tmp_path: Path) -> None:
    status, text = _run(
        'echo "$PWD|$ONLY|$HOME|$0"; exit 3', environment={"ONLY": "ü 1"}, cwd=str(tmp_path)
    )
    assert (status, text) == (3, f"{tmp_path}|ü 1||sh\n")


def test_without_an_environment_it_has_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED_ON", "yes")
    assert _run("echo $PASSED_ON") == (0, "yes\n")


def test_signals_that_python_ignores_are_not_ignored_by_the_program() -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    _, text = _run("grep SigIgn /proc/self/status")
    assert int(text.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_the_program_has_no_descriptor_of_ours() -> None:
    # GIVEN those of ours that are meant to be inherited
    inheritable = {fd for fd in range(1024) if _is_inheritable(fd)}

    # WHEN a program lists its own
    _, text = _run("ls /proc/self/fd")

    # THEN there are but two more: the pipe that it writes to, and the listed directory
    assert inheritable <= {int(word) for word in text.split()}
    assert len({int(word) for word in text.split()} - inheritable - {0, 1, 2}) == 2


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def test_the_first_of_the_paths_that_exists_is_run(tmp_path: Path) -> None:
    first = str(tmp_path / "absent")
    second = _executable(tmp_path / "second", 2)
    third = _executable(tmp_path / "third", 3)
    child = spawn_paused([first, second, third], ["command"], None, None)
    child.release()
    assert child.failure() == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 2


def test_a_command_that_is_nowhere_is_not_found(tmp_path: Path) -> None:
    paths = [str(tmp_path / "a"), "/dev/null/b"]
    assert _failure(paths) == errno.ENOENT
    assert _failure([]) == errno.ENOENT


def test_a_file_that_may_not_run_is_remembered_and_a_later_one_is_run(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    absent = str(tmp_path / "absent")
    assert _failure([str(plain), absent]) == errno.EACCES

    good = _executable(tmp_path / "good", 0)
    child = spawn_paused([str(plain), good], ["command"], None, None)
    child.release()
    assert child.failure() == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 0


def test_a_file_that_is_no_program_ends_the_search(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"neither ELF nor script")
    bad.chmod(0o755)
    assert _failure([str(bad), _executable(tmp_path / "good", 0)]) == errno.ENOEXEC


def test_a_directory_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    assert _failure([SHELL], cwd=str(tmp_path / "absent")) == errno.ENOENT


def test_a_child_is_born_even_while_other_threads_want_the_interpreter() -> None:
    # GIVEN a thread that asks for the interpreter lock all the time
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            pass

    busy = threading.Thread(target=spin)
    busy.start()

    # WHEN children are started beside it
    try:
        for _ in range(20):
            child = spawn_paused([sys.executable], ["python", "-S", "-c", ""], None, None)
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            doorbell = spawn_doorbell()
            wait_until("it sleeps", lambda tid=doorbell: process_state(tid) == "S")  # type: ignore[misc]
            os.kill(doorbell, signal.SIGKILL)
            os.waitpid(doorbell, _WALL)
    finally:
        done.set()
        busy.join()


class TestDoorbell:
    """The child by which other threads wake the tracer's."""

    def test_a_signal_to_it_is_an_event_for_its_parent_and_no_end(self) -> None:
        # GIVEN a doorbell that has come so far as to be traced
        doorbell = spawn_doorbell()
        wait_until("it is traced", lambda: status_fields(doorbell)["TracerPid"] != "0")

        # WHEN it is rung
        os.kill(doorbell, signal.SIGUSR1)

        # THEN its parent hears that it has stopped
        tid, status = os.waitpid(doorbell, _WALL)
        assert tid == doorbell
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGUSR1
        os.kill(doorbell, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(doorbell, _WALL)[1]) == signal.SIGKILL

    def test_it_ends_with_the_thread_that_made_it(self) -> None:
        made: list[int] = []

        def ring_ready() -> None:
            made.append(spawn_doorbell())
            wait_until("it is traced", lambda: status_fields(made[0])["TracerPid"] != "0")

        thread = threading.Thread(target=ring_ready)
        thread.start()
        thread.join()
        wait_until("it has ended", lambda: process_state(made[0]) in "ZX")
        assert os.WTERMSIG(os.waitpid(made[0], _WALL)[1]) == signal.SIGKILL

    def test_it_holds_no_pipe_open_and_no_terminal(self) -> None:
        read, write = os.pipe()
        doorbell = spawn_doorbell()
        os.close(write)
        assert os.read(read, 1) == b""
        assert os.getsid(doorbell) == doorbell
        os.close(read)
        os.kill(doorbell, signal.SIGKILL)
        os.waitpid(doorbell, _WALL)


def test_a_signal_to_what_is_gone_is_no_error() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    kill_quietly(child, signal.SIGTERM)
