"""What /proc says of a process and of a thread, whatever they are called."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from ptrace_uprobes.errors import NoSuchProcess
from ptrace_uprobes.linux.process_info import (
    command_name,
    last_cpu,
    read_status,
    thread_ids,
)
from tests.support.procfs import process_state, wait_until

T = TypeVar("T")
_PR_SET_NAME = 15  # prctl(2)


@pytest.fixture
def gone() -> int:
    """A pid that no process has any more."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@contextmanager
def _disposition(number: signal.Signals, action: signal.Handlers | None) -> Iterator[None]:
    before = signal.signal(number, action if action is not None else lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)


def _in_thread_named(name: bytes, look: Callable[[int], T]) -> T:
    answers: list[T] = []

    def work() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name, 0, 0, 0)
        answers.append(look(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return answers[0]


def test_our_own_status_is_ours() -> None:
    status = read_status(os.getpid())
    assert status.tgid == os.getpid()
    assert status.ppid == os.getppid()
    assert status.uid == os.geteuid()
    assert status.has_memory
    assert status.state in "RS"


def test_a_thread_has_its_processs_tgid() -> None:
    assert _in_thread_named(b"worker", read_status).tgid == os.getpid()


def test_dispositions_of_signals_are_told_apart() -> None:
    # GIVEN one signal of each disposition
    with (
        _disposition(signal.SIGUSR1, None),
        _disposition(signal.SIGUSR2, signal.SIG_IGN),
        _disposition(signal.SIGWINCH, signal.SIG_DFL),
    ):
        status = read_status(os.getpid())

    # THEN each is said to be what it is
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
    assert [status.catches(n) for n in numbers] == [True, False, False]
    assert [status.ignores(n) for n in numbers] == [False, True, False]


def test_blocked_and_pending_signals_are_masks_by_number() -> None:
    # GIVEN a thread that blocks the highest signal, and has it pending
    number = signal.SIGRTMAX
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        signal.pthread_kill(threading.get_ident(), number)

        # WHEN its status is read
        status = read_status(threading.get_native_id())

        # THEN both masks have the bit, and the process's own queue has not
        assert status.blocked >> (number - 1) & 1
        assert status.pending >> (number - 1) & 1
        assert not status.shared_pending >> (number - 1) & 1
    finally:
        signal.sigwait([number])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_zombie_has_no_memory() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    wait_until("it is a zombie", lambda: process_state(child) == "Z")
    status = read_status(child)
    assert (status.state, status.has_memory) == ("Z", False)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    "name",
    [
        b"plain",
        b") R 1 2 (",  # looks like the rest of /proc/TID/stat
        b"a\tb",
        b"Uid:\t0\t0",
        b"\xff\xfe",
        b"",
    ],
)
def test_a_thread_name_of_any_bytes_confuses_nothing(name: bytes) -> None:
    def look(tid: int) -> tuple[str, int, int | None]:
        status = read_status(tid)
        return command_name(tid), status.uid, last_cpu(tid)

    comm, uid, cpu = _in_thread_named(name, look)
    assert comm == name.decode(errors="replace")
    assert uid == os.geteuid()
    assert cpu in range(os.cpu_count() or 1)


@pytest.mark.parametrize("name", [b"a\rb", b"ends in\n", b"\r\n"])
def test_a_thread_name_keeps_the_line_endings_in_it(name: bytes) -> None:
    assert _in_thread_named(name, command_name) == name.decode()


def test_the_cpu_of_a_thread_that_may_run_on_one_only_is_that_one() -> None:
    cpu = max(os.sched_getaffinity(0))

    def look(tid: int) -> int | None:
        os.sched_setaffinity(tid, {cpu})
        return last_cpu(tid)

    assert _in_thread_named(b"pinned", look) == cpu


def test_all_threads_of_a_process_are_listed() -> None:
    tids = _in_thread_named(b"second", lambda tid: (tid, thread_ids(os.getpid())))
    assert tids[0] in tids[1]
    assert os.getpid() in tids[1]


def test_of_a_process_that_is_gone_nothing_is_known(gone: int) -> None:
    assert command_name(gone) == "?"
    assert thread_ids(gone) == []
    assert last_cpu(gone) is None
    with pytest.raises(NoSuchProcess):
        read_status(gone)
