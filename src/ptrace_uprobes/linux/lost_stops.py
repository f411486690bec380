"""Stops that another thread of our own process has waited for.

waitpid(2) without __WNOTHREAD looks at the tracees of all threads (kernel/exit.c, do_wait). So
an embedding program that waits for a child that it also probes, or for any child at all,
may take a stop that was meant for the tracing thread. The thread still stands in its stop,
and PTRACE_GETSIGINFO tells which one it is.
"""

from __future__ import annotations

import os
import signal
import struct
from typing import Final

from ptrace_uprobes.errors import NoSuchProcess
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.process_info import read_status

__all__ = ["lost_status"]

_WALL: Final = 0x40000000
_LOOK: Final = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | _WALL
_STOPPED: Final = 0x7F
_IN_GROUP_STOP: Final = ptrace_calls.EVENT_STOP << 16 | signal.SIGSTOP << 8 | _STOPPED
_ENDED: Final = 0


def lost_status(tid: int) -> int | None:
    """The raw wait status of the stop that a tracee stands in, if nobody will report it."""
    try:
        state = read_status(tid).state
    except NoSuchProcess:
        state = "X"
    if state not in "tTX":
        return None
    try:
        if os.waitid(os.P_PID, tid, _LOOK) is not None:
            return None  # not taken: waitpid will report it
    except ChildProcessError:
        return _ENDED if state == "X" else None
    if state == "X":
        return _ENDED
    try:
        info = ptrace_calls.get_signal_info(tid)
    except ptrace_calls.TraceeGone:
        return None  # it runs again
    except OSError:
        return _IN_GROUP_STOP  # EINVAL: ptrace(2), "Group-stop"
    number: int
    code: int
    number, _, code = struct.unpack_from("iii", info)
    # An event's or a system call's stop has its exit code in si_code.
    return (code if code > 0x80 or code & 0x7F == number else number) << 8 | _STOPPED
