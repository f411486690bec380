"""What waitpid(2) says of a tracee, as a frozen value (ptrace(2), "Death under ptrace" and on)."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["STOPPING_SIGNALS", "TRAP_STOP", "StopKind", "WaitStatus", "decode_status"]

TRAP_STOP: Final = (signal.SIGTRAP << 8) | 0x7F
"""The raw status of a plain SIGTRAP signal-delivery-stop: what a hit looks like."""

STOPPING_SIGNALS: Final = frozenset(
    {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
)
_SYSCALL_BIT: Final = 0x80
_EVENT_STOP: Final = 128


class StopKind(Enum):
    """Which of ptrace's stops, or that the thread has ended."""

    EXITED = "exited"
    KILLED = "killed by a signal"
    SYSCALL = "syscall-stop"
    GROUP_STOP = "group-stop"
    EVENT_STOP = "interrupted, or the first stop of a new thread"
    EVENT = "fork, vfork, clone, exec, vfork-done or exit"
    SIGNAL = "signal-delivery-stop"


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """A decoded status. `code` is the exit code, the signal or the event."""

    kind: StopKind
    code: int


def decode_status(status: int) -> WaitStatus:
    """The meaning of a raw wait status of a SEIZEd thread traced with TRACESYSGOOD."""
    if os.WIFEXITED(status):
        return WaitStatus(StopKind.EXITED, os.WEXITSTATUS(status))
    if os.WIFSIGNALED(status):
        return WaitStatus(StopKind.KILLED, os.WTERMSIG(status))
    number = (status >> 8) & 0xFF
    event = status >> 16
    if event == _EVENT_STOP:
        if number in STOPPING_SIGNALS:
            return WaitStatus(StopKind.GROUP_STOP, number)
        return WaitStatus(StopKind.EVENT_STOP, number)
    if event:
        return WaitStatus(StopKind.EVENT, event)
    if number == signal.SIGTRAP | _SYSCALL_BIT:
        return WaitStatus(StopKind.SYSCALL, number)
    return WaitStatus(StopKind.SIGNAL, number)
