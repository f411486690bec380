"""All threads of the traced programs held for a moment, while traps are written or taken out.

Between a look at /proc/PID/maps and the writing of a trap a running program may unmap the module
and have something else there: another library a page further on, whose instructions the trap would
cut in two, or its data. Nothing but standing still keeps it from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.tracee import RunState, Thread

__all__ = ["ask_to_stop", "go_on", "standstill", "stoppable"]


@contextmanager
def standstill(state: EngineState, dispatch: Callable[[int, int], None]) -> Iterator[None]:
    """Hold what runs; what stood before, as in a hit whose handler is running, stands after it.

    A thread that waits for a vfork child is left to that, and so is the child.
    """
    if state.frozen or state.detaching:
        yield
        return
    state.settle()
    current = state.current
    # With their memory: one that comes by another, in an exec meanwhile, is held by us alone.
    stood = {t: t.process.space for t in state.threads.values() if _stands(t)}
    rings: list[tuple[int, int]] = []
    state.frozen = True
    try:
        _hold(state, dispatch, rings)
        yield
    finally:
        state.frozen = False
        state.current = current
        state.events.extend(rings)
        for thread in list(state.threads.values()):
            if stood.get(thread) is not thread.process.space and _stands(thread):
                go_on(thread)


def stoppable(state: EngineState) -> list[Thread]:
    """What runs, less those that wait for a vfork child, and the child that they wait for."""
    return [
        thread
        for thread in state.running()
        if not thread.in_vfork and not state.finishes_vfork(thread)
    ]


def ask_to_stop(threads: Iterable[Thread], asked: set[int]) -> None:
    """Interrupt these, once again each: a remote call may have swallowed an interrupt."""
    for thread in threads:
        if thread.trap_due or (thread.interrupted and thread.tid in asked):
            continue
        asked.add(thread.tid)
        if not thread.interrupt():
            thread.state = RunState.GONE  # its end is on its way


def go_on(thread: Thread) -> None:
    """Let a held thread go on as it would have."""
    if thread.in_group_stop:
        thread.in_group_stop = False
        thread.listen()
    else:
        number, thread.resume_signal = thread.resume_signal, 0
        thread.resume(number)


def _stands(thread: Thread) -> bool:
    return thread.state is RunState.STOPPED and not thread.busy


def _hold(
    state: EngineState, dispatch: Callable[[int, int], None], rings: list[tuple[int, int]]
) -> None:
    asked: set[int] = set()
    while True:
        moving = stoppable(state)
        if not moving:
            return
        ask_to_stop(moving, asked)
        try:
            event = state.next_event()
        except ChildProcessError:
            return
        if event[0] == state.doorbell:
            rings.append(event)  # what was posted may end the whole run: it has to wait
        else:
            dispatch(*event)
