"""Why a process cannot be traced, in words that tell the user what to do (ptrace(2))."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import BY_ELF_MACHINE
from ptrace_uprobes.errors import (
    AlreadyTraced,
    NoSuchProcess,
    NotPermitted,
    UnsupportedTracee,
    UprobesError,
)
from ptrace_uprobes.linux.process_info import Status, command_name, read_status, thread_ids

__all__ = ["architecture_of", "check_can_be_probed", "explain_refusal"]

_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_ELF_HEADER_SIZE = 20
_KTHREADD = 2
"""The parent of all kernel threads."""
_LOOKS = 30
_MOMENT = 0.001


def check_can_be_probed(pid: int) -> Status:
    """Refuse what can never be probed, before anything is done to it; returns its status."""
    looks = _LOOKS
    while True:
        status = _status_of(pid)
        if status.tgid == os.getpid():
            raise NotPermitted(pid, "it is this very process; trace it from another one")
        alive = [tid for tid in thread_ids(status.tgid) if _state(tid) not in "ZX"]
        if alive and status.state in "ZX":
            status = read_status(alive[0])  # the leader has exited, other threads live
        if status.tracer:
            raise _already_traced(pid, status.tracer)
        if alive and (status.has_memory or _KTHREADD in (status.ppid, status.tgid)):
            break
        # In an exec of another thread than the leader it looks for a moment as if it had ended.
        looks -= 1
        if not looks:
            raise UnsupportedTracee(
                pid, f"it has exited and is a zombie; its parent is {status.ppid}"
            )
        time.sleep(_MOMENT)
    if not status.has_memory:
        raise UnsupportedTracee(pid, f"{status.name} is a kernel thread; it has no user code")
    return status


def _status_of(pid: int) -> Status:
    try:
        return read_status(pid)
    except NoSuchProcess as error:
        if not _is_there(pid):
            raise
        raise NoSuchProcess(
            pid,
            " in /proc, though there is one: that hides it (hidepid, proc(5)), or is another pid "
            "namespace's",
        ) from error


def _is_there(pid: int) -> bool:
    """Whether the kernel knows the process, whatever /proc shows."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return os.path.exists("/proc/self") and not os.path.exists(f"/proc/{pid}")


def _already_traced(pid: int, tracer: int) -> AlreadyTraced:
    """TracerPid is the tracing thread's number; users know its process's."""
    try:
        tracer = read_status(tracer).tgid
    except (NoSuchProcess, NotPermitted):
        pass  # it ended just now, is in another pid namespace, or hidden
    return AlreadyTraced(pid, tracer, command_name(tracer))


def _state(tid: int) -> str:
    try:
        return read_status(tid).state
    except NoSuchProcess:
        return "X"


def explain_refusal(pid: int, error: OSError) -> UprobesError:
    """The error to raise when PTRACE_SEIZE was refused."""
    status = read_status(pid)
    if status.tracer:
        return _already_traced(pid, status.tracer)
    if status.state in "ZX":
        return UnsupportedTracee(pid, "it has just exited")
    if status.uid != os.geteuid() and os.geteuid() != 0:
        return NotPermitted(
            pid,
            f"it belongs to user {status.uid} and you are {os.geteuid()}; "
            "run as that user or as root",
        )
    try:
        scope = int(_YAMA.read_text())
    except (OSError, ValueError):
        scope = 0
    if scope == 3:
        return NotPermitted(pid, "Yama forbids ptrace until reboot (kernel.yama.ptrace_scope=3)")
    if scope == 2:
        return NotPermitted(pid, "Yama allows only root (kernel.yama.ptrace_scope=2)")
    if scope == 1:
        return NotPermitted(
            pid,
            "Yama allows only descendants (kernel.yama.ptrace_scope=1); launch the program with "
            "`-- COMMAND`, or run as root, or set kernel.yama.ptrace_scope=0",
        )
    return NotPermitted(
        pid,
        f"the kernel refused ({error.strerror}); it may be set-uid, not dumpable or protected "
        "by a security module; run as root",
    )


def architecture_of(pid: int) -> Architecture:
    """The architecture of the program that `pid` runs, from its ELF header; refuses others."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            header = file.read(_ELF_HEADER_SIZE)
    except FileNotFoundError as error:
        raise NoSuchProcess(pid) from error
    except PermissionError as error:
        if read_status(pid).tracer not in thread_ids(os.getpid()):
            raise explain_refusal(pid, error) from error
        raise NotPermitted(
            pid,
            "its program file may be executed but not read, so the kernel lets nobody trace it; "
            "make it readable, or run as root",
        ) from error
    except OSError:
        header = b""  # on a file system that does not answer
    if len(header) < _ELF_HEADER_SIZE or header[:4] != b"\x7fELF":
        raise UnsupportedTracee(pid, "its program file is no readable ELF file")
    bits = {1: 32, 2: 64}.get(header[4], 0)
    machine = int.from_bytes(header[18:20], "little")
    architecture = BY_ELF_MACHINE.get((machine, bits))
    if architecture is None:
        raise UnsupportedTracee(
            pid,
            f"it is a {bits}-bit program for ELF machine {machine}; "
            "only x86-64 and i386 are supported yet",
        )
    return architecture
