"""Facts of a process or thread from /proc (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.errors import NoSuchProcess, NotPermitted

__all__ = [
    "CLOCK_GRAIN",
    "Status",
    "command_name",
    "last_cpu",
    "process_ids",
    "read_status",
    "started_at",
    "thread_ids",
]


@dataclass(frozen=True, slots=True)
class Status:
    """/proc/PID/status, the fields that the engine asks for. Signal sets are bit masks."""

    name: str
    state: str
    tgid: int
    ppid: int
    tracer: int
    uid: int
    seccomp: int
    pending: int
    shared_pending: int
    blocked: int
    ignored: int
    caught: int
    has_memory: bool
    """False for a zombie and for a kernel thread."""

    def catches(self, signal_number: int) -> bool:
        return bool(self.caught >> (signal_number - 1) & 1)

    def ignores(self, signal_number: int) -> bool:
        return bool(self.ignored >> (signal_number - 1) & 1)


def read_status(tid: int) -> Status:
    """The status of a process or thread now; raises `NoSuchProcess`, and `NotPermitted` where /proc
    is mounted so that it shows a user only the own processes."""
    try:
        with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NoSuchProcess(tid) from error
    except PermissionError as error:
        raise NotPermitted(
            tid, "/proc shows to each user only the own processes (hidepid, proc(5))"
        ) from error

    def mask(name: str) -> int:
        return int(fields.get(name, "0"), 16)

    return Status(
        name=fields["Name"],
        state=fields["State"][0],
        tgid=int(fields["Tgid"]),
        ppid=int(fields["PPid"]),
        tracer=int(fields["TracerPid"]),
        uid=int(fields["Uid"].split()[1]),
        seccomp=int(fields.get("Seccomp", "0")),
        pending=mask("SigPnd"),
        shared_pending=mask("ShdPnd"),
        blocked=mask("SigBlk"),
        ignored=mask("SigIgn"),
        caught=mask("SigCgt"),
        has_memory="VmSize" in fields,
    )


def command_name(tid: int) -> str:
    """The thread's comm, or `?` if it is gone, or not to be seen."""
    try:
        with open(f"/proc/{tid}/comm", encoding="utf-8", errors="replace", newline="\n") as file:
            return file.read().removesuffix("\n")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return "?"


def thread_ids(pid: int) -> list[int]:
    """The threads of a process now; empty if it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def process_ids() -> list[int]:
    """All processes that /proc shows now."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


CLOCK_GRAIN: Final = 5.0
"""How long before `started_at` the memory may have been copied, with a margin, in seconds. /proc
tells it in hundredths; but the kernel takes the time after the copy (kernel/fork.c, copy_process),
and may have given the CPU to others in between."""


def started_at(pid: int) -> float:
    """When the process began, in seconds of CLOCK_BOOTTIME; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def last_cpu(tid: int) -> int | None:
    """The CPU that the thread last ran on (field 39 of /proc/TID/stat)."""
    try:
        with open(f"/proc/{tid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[36])
