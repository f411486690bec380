"""The proposal's calls. Breakpoints are found by (pid, vaddr)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from ptrace_uprobes.errors import NoSuchProcess
from ptrace_uprobes.linux.process_info import read_status, started_at
from ptrace_uprobes.utrace.breakpoint import Breakpoint, Order, checked_vaddr
from ptrace_uprobes.utrace.log import Records
from ptrace_uprobes.utrace.program import Program
from ptrace_uprobes.utrace.refusals import InvalidRequest, NothingThere, is_number, with_errno

__all__ = [
    "utrace_addbp",
    "utrace_launch",
    "utrace_lsbp",
    "utrace_read",
    "utrace_rmbp",
    "utrace_setbp",
]

Answer = TypeVar("Answer")

_UNREAD_KEPT: Final = 64
"""Programs that nobody probes any more, and whose logs nobody has read."""

# Taken for a moment only, and after a program's own lock where both are.
_lock = threading.RLock()
_programs: dict[int, Program] = {}


def _begin_in_fork_child() -> None:
    """Another thread may have held the lock, and the programs are the parent's."""
    global _lock
    _lock = threading.RLock()
    _programs.clear()


os.register_at_fork(after_in_child=_begin_in_fork_child)


def utrace_addbp(
    pid: int, vaddr: int | str, request: int, name: str | None = None, length: int = 0
) -> None:
    """Set a breakpoint at `vaddr` in the running process `pid`, all its threads.

    `vaddr` is a virtual address of the process, or a SPEC such as "libc:malloc". `request` is
    a bitmap: UTRACE_GETDATA logs `length` bytes at the address in the first argument,
    UTRACE_GETREGS the registers, UTRACE_STACKTRACE the user stack; UTRACE_HANDLER calls the
    handler that is registered as `name`. The first breakpoint attaches to the process.

    EPERM if the caller may not ptrace it; ESRCH if there is no such process; EINVAL if the
    request makes no sense, the name is not registered, or `vaddr` is no code or inside an
    instruction; EEXIST if there is a breakpoint at `vaddr` already.
    """
    with with_errno():
        order = Order.checked(vaddr, request, name, length)
        _check_pid(pid)
        while True:
            program = _program_to_probe(pid)
            with program.lock:
                if program.forgotten:
                    continue
                try:
                    program.add(order)
                finally:
                    _forget_if_done(program)
            return


def utrace_rmbp(pid: int, vaddr: int | str) -> None:
    """Remove the breakpoint at `vaddr`; the last one detaches. ESRCH if there is none.

    `vaddr` is what utrace_addbp or utrace_launch was given, or where that is in the process.
    A call of its handler that has begun is not waited for.
    """
    checked_vaddr(vaddr)
    _in_program(pid, lambda program: program.remove(vaddr))


def utrace_setbp(pid: int, vaddr: int | str, active: bool) -> None:
    """Make the breakpoint at `vaddr` active or inactive. ESRCH if there is none."""
    checked_vaddr(vaddr)
    if active not in (True, False) or not isinstance(active, int):
        raise InvalidRequest(f"a breakpoint is active or not: True or False, not {active!r}")
    _in_program(pid, lambda program: program.switch(vaddr, active=bool(active)))


def utrace_lsbp(pid: int) -> tuple[Breakpoint, ...]:
    """The breakpoints of the process, in the order in which they were set.

    None of a process whose log is yet to be read; ESRCH if nothing is known of the pid.
    """
    return _in_program(pid, Program.breakpoints)


def utrace_launch(argv: Sequence[str], breakpoints: Iterable[tuple[object, ...]]) -> int:
    """Start a program that has these breakpoints before its first instruction; gives its pid.

    Each breakpoint is a tuple of utrace_addbp's arguments after the pid. A number is an address
    as the program's own file states it, which is what objdump prints: the virtual address
    itself in a program that is linked to a fixed one, and the same plus where the program
    was loaded in one that is not (PIE).

    Errors are those of utrace_addbp, and execve(2)'s for a command that cannot be run.
    Nothing of the program has run then. A name without a library is looked for in the
    program's own once they are loaded: if none has it, the program is ended before it runs,
    and utrace_read's iterator ends with EINVAL.
    """
    with with_errno():
        _check_command(argv)
        if not isinstance(breakpoints, Iterable):
            raise InvalidRequest(f"breakpoints are tuples in a list, not {breakpoints!r}")
        orders = [Order.parsed(arguments) for arguments in breakpoints]
        program = Program.launch(argv, orders)
    with _lock:
        _enter(program)
    return program.pid


def utrace_read(pid: int, timeout: float | None = None) -> Records:
    """What the predefined handlers have logged, oldest first; each record is given once.

    The iterator waits for records as long as the process is probed, and ends when all is
    read and the program has ended or its last breakpoint was removed; the pid is forgotten
    then. With `timeout` it also ends when nothing comes for so many seconds: 0 gives what is
    there. The log is bounded: see `Record.lost`. ESRCH if nothing is known of the pid.
    """
    if timeout is not None and not _is_duration(timeout):
        raise InvalidRequest(f"a timeout is a number of seconds from 0 on, not {timeout!r}")
    program = _known(pid)

    def drained() -> None:
        with program.lock:
            _forget_if_done(program)

    return Records(program.log, timeout, drained)


def _check_command(argv: object) -> None:
    if not isinstance(argv, (list, tuple)) or not all(isinstance(word, str) for word in argv):
        raise InvalidRequest(f"a command is a list of strings, not {argv!r}")


def _is_duration(value: object) -> bool:
    return (is_number(value) or isinstance(value, float)) and value >= 0  # type: ignore[operator]  # a number


def _check_pid(pid: int) -> None:
    if not is_number(pid):
        raise InvalidRequest(f"a pid is a number, not {pid!r}")
    if pid <= 0:
        raise NoSuchProcess(pid, "; a pid is a positive number")


def _process_of(pid: int) -> int:
    """A thread's number stands for its process."""
    return read_status(pid).tgid


def _program_to_probe(pid: int) -> Program:
    pid = _process_of(pid)
    started = started_at(pid)
    with _lock:
        program = _programs.get(pid)
        # The number may be another process's by now: whoever reads the old log keeps it.
        if program is None or program.started != started:
            program = Program(pid)
            _enter(program)
        return program


def _known(pid: int) -> Program:
    if not is_number(pid):
        raise InvalidRequest(f"a pid is a number, not {pid!r}")
    with _lock:
        program = _programs.get(pid)
    if program is None:
        try:
            tgid = _process_of(pid)
        except NoSuchProcess:
            tgid = 0
        with _lock:
            program = _programs.get(tgid)
    if program is None:
        raise NothingThere(f"no breakpoint was set in a process {pid}, or its log has been read")
    return program


def _in_program(pid: int, function: Callable[[Program], Answer]) -> Answer:
    with with_errno():
        while True:
            program = _known(pid)
            with program.lock:
                if not program.forgotten:
                    program.note_if_ended()
                    return function(program)


def _forget_if_done(program: Program) -> None:
    """Forget a program that nobody probes and that left nothing to read. Under its lock."""
    if program.is_idle and program.log.is_drained:
        program.forgotten = True
        with _lock:
            if _programs.get(program.pid) is program:
                del _programs[program.pid]


def _enter(program: Program) -> None:
    """Have it found by its pid, and bound what is kept for readers that never come."""
    _programs.pop(program.pid, None)
    _programs[program.pid] = program
    idle = [other for other in _programs.values() if other.is_idle]
    for old in idle[:-_UNREAD_KEPT]:
        if old.lock.acquire(blocking=False):
            try:
                if old.is_idle:
                    old.forgotten = True
                    del _programs[old.pid]
            finally:
                old.lock.release()
