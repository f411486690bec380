"""System calls of ours in a program that a seccomp filter watches over.

What a filter does at a call cannot be known from outside: PTRACE_SECCOMP_GET_FILTER shows it only
to CAP_SYS_ADMIN, and a program may be killed for a call that it never made. So none is made; or,
where nothing else helps and the kernel lets us (CAP_SYS_ADMIN, no filter of our own), one with the
filter suspended for just that long (PTRACE_O_SUSPEND_SECCOMP).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ptrace_uprobes.errors import NoSuchProcess
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.process_info import read_status
from ptrace_uprobes.linux.ptrace_calls import SeizeOptions, TraceeGone
from ptrace_uprobes.tracee import AddressSpace, Thread

__all__ = ["FILTERED", "is_filtered", "may_call"]

FILTERED: Final = "a seccomp filter is in force"
_SUSPEND_SECCOMP: Final = 1 << 21  # include/uapi/linux/ptrace.h


def is_filtered(space: AddressSpace) -> bool:
    """Whether any thread has a filter: each has its own, and any may be borrowed."""
    return any(_has_filter(thread.tid) for thread in space.threads())


def _has_filter(tid: int) -> bool:
    try:
        return bool(read_status(tid).seccomp)
    except NoSuchProcess:
        return False


@contextmanager
def may_call(thread: Thread, *, past_filter: bool) -> Iterator[bool]:
    """Whether system calls may be made in a stopped thread: asked while it stands still, and with
    its filter suspended if it has one, `past_filter` is wanted and the kernel allows it."""
    if not _has_filter(thread.tid):
        yield True
        return
    if not past_filter or not _set_options(thread, SeizeOptions.ALL | _SUSPEND_SECCOMP):
        yield False
        return
    try:
        yield True
    finally:
        with suppress(TraceeGone):
            _set_options(thread, SeizeOptions.ALL)


def _set_options(thread: Thread, options: int) -> bool:
    try:
        ptrace_calls.call(ptrace_calls.SETOPTIONS, thread.tid, 0, options)
    except TraceeGone:
        raise
    except OSError:  # EPERM, or EINVAL of a kernel without it
        return False
    return True
