"""Affinity is borrowed: whoever was moved to the tracer's CPU gets back what it had."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ptrace_uprobes.linux import placement as module
from ptrace_uprobes.linux.placement import Placement

ALLOWED = os.sched_getaffinity(0)


@pytest.fixture
def child() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.fixture
def gone() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_the_cpu_is_the_one_that_the_thread_last_ran_on(
    monkeypatch: pytest.MonkeyPatch, child: int
) -> None:
    for cpu in ALLOWED:
        monkeypatch.setattr(module, "last_cpu", lambda _, cpu=cpu: cpu)
        assert Placement(child).cpu == cpu


@pytest.mark.parametrize("last", [None, 1 << 20])
def test_a_cpu_that_we_may_not_use_or_do_not_know_is_replaced_by_one_of_ours(
    monkeypatch: pytest.MonkeyPatch, child: int, last: int | None
) -> None:
    monkeypatch.setattr(module, "last_cpu", lambda _: last)
    assert Placement(child).cpu in ALLOWED


def test_a_thread_that_is_taken_is_moved_and_given_back(child: int) -> None:
    placement = Placement(child)
    placement.take(child)
    assert os.sched_getaffinity(child) == {placement.cpu}
    placement.restore(child)
    assert os.sched_getaffinity(child) == ALLOWED


def test_a_thread_that_is_taken_twice_is_given_back_what_it_had_at_first(child: int) -> None:
    placement = Placement(child)
    placement.take(child)
    placement.take(child)
    placement.restore(child)
    assert os.sched_getaffinity(child) == ALLOWED


def test_a_thread_that_was_on_one_cpu_stays_there_afterwards(child: int) -> None:
    only = {max(ALLOWED)}
    os.sched_setaffinity(child, only)
    placement = Placement(child)
    placement.take(child)
    placement.restore(child)
    assert os.sched_getaffinity(child) == only


def test_the_calling_thread_is_zero_and_others_of_ours_stay(child: int) -> None:
    placement = Placement(child)
    seen: list[set[int]] = []

    def work() -> None:
        placement.take(0)
        seen.append(os.sched_getaffinity(0))
        placement.restore(0)
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{placement.cpu}, ALLOWED]
    assert os.sched_getaffinity(0) == ALLOWED


def test_a_thread_born_of_a_taken_one_is_given_back_what_its_parent_had(child: int) -> None:
    # GIVEN a parent that was taken, and a child with the affinity that it inherited
    parent = threading.get_native_id()
    placement = Placement(child)
    placement.take(parent)
    os.sched_setaffinity(child, {placement.cpu})

    # WHEN the engine learns of the birth, and later lets go of both
    placement.inherit(child, parent)
    placement.take(child)
    placement.restore(child)
    placement.restore(parent)

    # THEN neither keeps ours
    assert os.sched_getaffinity(child) == ALLOWED
    assert os.sched_getaffinity(parent) == ALLOWED


def test_what_was_not_taken_is_not_given_back(child: int) -> None:
    only = {min(ALLOWED)}
    os.sched_setaffinity(child, only)
    placement = Placement(child)
    placement.inherit(child, 1)
    placement.restore(child)
    assert os.sched_getaffinity(child) == only


def test_a_thread_that_is_forgotten_is_left_where_it_is(child: int) -> None:
    placement = Placement(child)
    placement.take(child)
    placement.forget(child)
    placement.restore(child)
    assert os.sched_getaffinity(child) == {placement.cpu}


def test_a_thread_that_is_gone_is_no_error(child: int, gone: int) -> None:
    placement = Placement(child)
    placement.take(gone)
    placement.restore(gone)
    assert Placement(gone).cpu in ALLOWED


def test_a_thread_whose_cpus_exclude_ours_stays_where_it_was(
    monkeypatch: pytest.MonkeyPatch, child: int
) -> None:
    placement = Placement(child)
    placement.cpu = 1 << 10  # the kernel answers EINVAL, as for a cpuset without it
    placement.take(child)
    placement.restore(child)
    assert os.sched_getaffinity(child) == ALLOWED


def test_a_second_move_that_fails_does_not_forget_what_the_thread_had(
    monkeypatch: pytest.MonkeyPatch, child: int
) -> None:
    # GIVEN a thread that was moved
    placement = Placement(child)
    placement.take(child)

    # WHEN it is to be moved again, and that fails
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", refuse)
        placement.take(child)

    # THEN it is still given back what it had
    placement.restore(child)
    assert os.sched_getaffinity(child) == ALLOWED
