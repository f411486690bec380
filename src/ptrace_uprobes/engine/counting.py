"""The innermost loop: hits that only have to be counted, and nothing else.

HOT PATH: such a hit costs four system calls (wait, read RIP, write RIP, continue) and calls no
other function of ours. There are two of it with one meaning, `serve_in_python` and the one in
_counting.c, which is used where it could be built: it saves about an eighth of a hit's time
(docs/decisions/0008-hit-path-in-c.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Final, TypeAlias

from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.engine.state import WAIT_FLAGS, EngineState
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import fast_ptrace
from ptrace_uprobes.linux.wait_status import TRAP_STOP
from ptrace_uprobes.tracee import Thread

__all__ = [
    "PURE_PYTHON_VARIABLE",
    "Stop",
    "go_on",
    "go_on_in_python",
    "is_int3",
    "serve",
    "serve_in_python",
]

PURE_PYTHON_VARIABLE: Final = "PTRACE_UPROBES_PURE_PYTHON"
"""Set to anything but nothing, this environment variable has the loop in C not used."""
_INTERFACE: Final = 2
_FAIR_BURST: Final = 16
"""Stops served before all that are ready are taken together, the doorbell's among them."""

Stop: TypeAlias = tuple[int, int, Thread | None, PlacedSite | None]
"""A tid and its wait status; its thread and site if it is a hit."""


def serve_in_python(state: EngineState) -> Stop:
    """Count hits until a stop needs more than that, and return the stop.

    Raises ChildProcessError when there is nothing to wait for.
    """
    events = state.events
    threads = state.threads
    waitpid = os.waitpid
    ptrace = fast_ptrace
    flags = WAIT_FLAGS
    trap_stop = TRAP_STOP
    peekuser, pokeuser, cont = ptrace_calls.PEEKUSER, ptrace_calls.POKEUSER, ptrace_calls.CONT
    rip_offset = ptrace_calls.USER_OFFSETS["rip"]
    while True:
        if events:
            tid, status = events.popleft()
        else:
            tid, status = waitpid(-1, flags)
            state.burst += 1
            if state.burst >= _FAIR_BURST:
                state.burst = 0
                state.drain()
        if status != trap_stop or state.frozen or state.max_hits:
            return tid, status, None, None
        thread = threads.get(tid)
        if thread is None or thread.reentries or thread.stepping is not None or thread.syscall_mode:
            return tid, status, None, None
        placed: PlacedSite | None = thread.placed.get(ptrace(peekuser, tid, rip_offset, 0))
        if placed is None or not (placed.certain or is_int3(tid)):
            return tid, status, None, None
        count = placed.sole
        if count is None:
            return tid, status, thread, placed
        count.hits += 1
        # Failures: the thread was killed, and waitpid tells how it ended.
        ptrace(pokeuser, tid, rip_offset, placed.resume_c)
        ptrace(cont, tid, 0, 0)


def is_int3(tid: int) -> bool:
    """Whether the SIGTRAP that the thread stopped for is an int3's; not if it is gone.

    Needed where RIP alone does not tell: behind an instruction of one byte, where any other
    SIGTRAP may find the thread as well.
    """
    return ptrace_calls.signal_code(tid) == ptrace_calls.SI_KERNEL


def go_on_in_python(tid: int, address: int) -> bool:
    """Have a stopped thread go on at `address`; False if it is gone."""
    rip = ctypes.c_ulong(address)
    if fast_ptrace(ptrace_calls.POKEUSER, tid, ptrace_calls.USER_OFFSETS["rip"], rip) == -1:
        return False
    fast_ptrace(ptrace_calls.CONT, tid, 0, 0)
    return True


def _choose() -> tuple[Callable[[EngineState], Stop], Callable[[int, int], bool]]:
    in_python = serve_in_python, go_on_in_python
    if os.environ.get(PURE_PYTHON_VARIABLE):
        return in_python
    try:
        from ptrace_uprobes.engine import _counting
    except ImportError:
        return in_python
    return (_counting.serve, _counting.go_on) if _counting.INTERFACE == _INTERFACE else in_python


serve, go_on = _choose()
