"""A refusal says why, and what the user can do about it."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.errors import (
    AlreadyTraced,
    NoSuchProcess,
    NotPermitted,
    UnsupportedTracee,
    UprobesError,
)
from ptrace_uprobes.linux import permission
from ptrace_uprobes.linux.permission import (
    architecture_of,
    check_can_be_probed,
    explain_refusal,
)
from ptrace_uprobes.linux.process_info import Status, read_status

PID = 4711
REFUSED = OSError(errno.EPERM, os.strerror(errno.EPERM))
SLEEPER = Status(
    name="sleeper",
    state="S",
    tgid=PID,
    ppid=1,
    tracer=0,
    uid=os.geteuid(),
    seccomp=0,
    pending=0,
    shared_pending=0,
    blocked=0,
    ignored=0,
    caught=0,
    has_memory=True,
)


class Pretend(Protocol):
    """Have /proc say this of a thread."""

    def __call__(self, status: Status, tid: int = PID) -> None: ...


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pretend:
    """Statuses by thread, instead of /proc's; and no Yama."""
    known: dict[int, Status] = {}

    def add(status: Status, tid: int = PID) -> None:
        known[tid] = status

    def look(tid: int) -> Status:
        if tid not in known:
            raise NoSuchProcess(tid)
        return known[tid]

    monkeypatch.setattr(permission, "read_status", look)
    monkeypatch.setattr(permission, "thread_ids", lambda _: list(known))
    monkeypatch.setattr(permission, "_YAMA", tmp_path / "absent")
    return add


@pytest.fixture
def child() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _with_yama(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> None:
    path.write_text(text)
    monkeypatch.setattr(permission, "_YAMA", path)


def _says(error: UprobesError, kind: type[UprobesError], *words: str) -> None:
    assert type(error) is kind
    for word in words:
        assert word in str(error)
    assert "\n" not in str(error)


def test_a_process_of_another_user_is_named_with_its_owner(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(dataclasses.replace(SLEEPER, uid=12))
    monkeypatch.setattr(os, "geteuid", lambda: 34)
    _says(explain_refusal(PID, REFUSED), NotPermitted, "user 12", "you are 34", "as root")


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("1\n", ("descendants", "ptrace_scope=1", "-- COMMAND")),
        ("2\n", ("only root", "ptrace_scope=2")),
        ("3\n", ("until reboot", "ptrace_scope=3")),
        ("0\n", ("the kernel refused", "Operation not permitted", "set-uid")),
        ("gibberish", ("the kernel refused",)),
    ],
)
def test_yama_is_named_with_its_scope(
    pretend: Pretend,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scope: str,
    words: tuple[str, ...],
) -> None:
    pretend(SLEEPER)
    _with_yama(monkeypatch, tmp_path / "ptrace_scope", scope)
    _says(explain_refusal(PID, REFUSED), NotPermitted, *words)


def test_a_kernel_without_yama_blames_nothing_that_it_has_not(pretend: Pretend) -> None:
    pretend(SLEEPER)
    _says(explain_refusal(PID, REFUSED), NotPermitted, "the kernel refused")


def test_another_tracer_is_named_even_if_it_was_quicker_by_a_moment(pretend: Pretend) -> None:
    pretend(dataclasses.replace(SLEEPER, tracer=os.getpid()))
    error = explain_refusal(PID, REFUSED)
    assert isinstance(error, AlreadyTraced)
    assert error.tracer == os.getpid()
    assert f"(pid {os.getpid()})" in str(error)


def test_a_tracing_thread_is_named_by_its_process(pretend: Pretend) -> None:
    # GIVEN a process that is traced by a thread which is not its process's first
    pretend(dataclasses.replace(SLEEPER, tracer=8001))
    pretend(dataclasses.replace(SLEEPER, name="gdb", tgid=8000), 8001)

    # THEN the number is the one that the user finds in ps
    error = explain_refusal(PID, REFUSED)
    assert isinstance(error, AlreadyTraced)
    assert error.tracer == 8000


def test_a_process_that_has_just_exited_is_said_to_have(pretend: Pretend) -> None:
    pretend(dataclasses.replace(SLEEPER, state="Z"))
    _says(explain_refusal(PID, REFUSED), UnsupportedTracee, "exited")


def test_a_process_that_is_gone_is_said_to_be(pretend: Pretend) -> None:
    with pytest.raises(NoSuchProcess):
        explain_refusal(PID, REFUSED)


def test_ourselves_are_refused_by_any_of_our_threads_numbers() -> None:
    with pytest.raises(NotPermitted, match="this very process"):
        check_can_be_probed(os.getpid())


def test_what_is_probed_is_checked_first(pretend: Pretend) -> None:
    pretend(SLEEPER)
    assert check_can_be_probed(PID) is SLEEPER

    pretend(dataclasses.replace(SLEEPER, has_memory=False, name="kworker/0:1", ppid=2))
    with pytest.raises(UnsupportedTracee, match="kworker/0:1 is a kernel thread"):
        check_can_be_probed(PID)

    pretend(dataclasses.replace(SLEEPER, state="Z", ppid=99))
    with pytest.raises(UnsupportedTracee, match=r"zombie; its parent is 99"):
        check_can_be_probed(PID)


def test_a_zombie_leader_with_a_live_thread_is_a_live_process(pretend: Pretend) -> None:
    other = dataclasses.replace(SLEEPER, name="other")
    pretend(dataclasses.replace(SLEEPER, state="Z", has_memory=False))
    pretend(other, PID + 1)
    assert check_can_be_probed(PID) is other


def test_the_architecture_is_the_targets_as_its_file_says(child: int) -> None:
    assert architecture_of(child) is X86_64
    told, now = check_can_be_probed(child), read_status(child)
    assert replace(told, state="") == replace(now, state="")  # it may just fall asleep


def _header(bits: int, machine: int) -> bytes:
    return b"\x7fELF" + bytes((bits // 32, 1, 1)) + bytes(11) + machine.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (_header(32, 62), ("32-bit program", "machine 62", "only x86-64 and i386")),  # x32
        (_header(64, 183), ("64-bit program", "machine 183")),
        (_header(64, 62)[:-1], ("no readable ELF file",)),
        (b"#!/bin/sh and more than 20 bytes", ("no readable ELF file",)),
        (b"", ("no readable ELF file",)),
    ],
)
def test_another_architecture_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, header: bytes, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(permission, "open", lambda *_: io.BytesIO(header), raising=False)
    with pytest.raises(UnsupportedTracee) as caught:
        architecture_of(PID)
    _says(caught.value, UnsupportedTracee, *words)


def test_a_file_that_may_not_be_read_is_a_matter_of_permission(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> io.BytesIO:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    pretend(dataclasses.replace(SLEEPER, uid=12))
    monkeypatch.setattr(os, "geteuid", lambda: 34)
    monkeypatch.setattr(permission, "open", refuse, raising=False)
    with pytest.raises(NotPermitted, match="user 12"):
        architecture_of(PID)


@pytest.mark.parametrize(("header", "name"), [((64, 62), "x86_64"), ((32, 3), "i386")])
def test_the_architecture_is_the_programs_and_not_the_machines(
    monkeypatch: pytest.MonkeyPatch, header: tuple[int, int], name: str
) -> None:
    monkeypatch.setattr(permission, "open", lambda *_: io.BytesIO(_header(*header)), raising=False)
    assert architecture_of(4242).name == name
