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
from typing import Any, Final, TypeAlias

from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.engine.state import LOOK, EngineState, status_of
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import fast_ptrace, is_int3
from ptrace_uprobes.tracee import Thread

__all__ = [
    "FAIR_BURST",
    "PURE_PYTHON_VARIABLE",
    "Stop",
    "go_on",
    "go_on_in_python",
    "serve",
    "serve_in_python",
]

PURE_PYTHON_VARIABLE: Final = "PTRACE_UPROBES_PURE_PYTHON"
"""Set to anything but nothing, this environment variable has the loop in C not used."""
_INTERFACE: Final = 3
FAIR_BURST: Final = 16
"""Stops served before others than the first that is ready get a turn, the doorbell among them."""

Stop: TypeAlias = tuple[int, int, Thread | None, PlacedSite | None]
"""A tid and its wait status; its thread and site if it is a hit."""


def serve_in_python(state: EngineState) -> Stop:
    """Count hits until a stop needs more than that, and return the stop, not taken (`state.LOOK`);
    or until a burst is over, and return no stop, with a tid of 0.

    Raises ChildProcessError when there is nothing to wait for.
    """
    threads = state.threads
    waitid: Callable[..., Any] = os.waitid  # never None without WNOHANG
    everyone, flags = os.P_ALL, LOOK
    sigtrap, trapped = 5, os.CLD_TRAPPED
    ptrace = fast_ptrace
    peekuser, pokeuser, cont = ptrace_calls.PEEKUSER, ptrace_calls.POKEUSER, ptrace_calls.CONT
    rip_offset = ptrace_calls.USER_OFFSETS["rip"]
    while True:
        seen = waitid(everyone, 0, flags)
        tid = seen[0]
        state.burst += 1
        if seen[3] != sigtrap or seen[4] != trapped or state.frozen or state.max_hits:
            return tid, status_of(seen), None, None
        thread = threads.get(tid)
        if thread is None or thread.reentries or thread.stepping is not None or thread.syscall_mode:
            return tid, status_of(seen), None, None
        placed: PlacedSite | None = thread.placed.get(ptrace(peekuser, tid, rip_offset, 0))
        if placed is None or not (placed.certain or is_int3(tid)):
            return tid, status_of(seen), None, None
        count = placed.sole
        if count is None:
            return tid, status_of(seen), thread, placed
        count.hits += 1
        # Failures: the thread was killed, and waitid tells how it ended.
        ptrace(pokeuser, tid, rip_offset, placed.resume_c)
        ptrace(cont, tid, 0, 0)
        if state.burst >= FAIR_BURST:
            return 0, 0, None, None


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
