"""Signals whose default effect ends a program that embeds the library, traps and all.

A library takes no signal over unasked; whoever embeds it asks, with `detach_on_signals`.

Python runs a handler on the main thread, between two bytecodes of whatever that holds. So the
handler only puts the number into a queue, which may be done there; a thread of ours detaches
and sends the signal once more, for it to have its default effect.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import FrameType

from ptrace_uprobes.engine.tracing_thread import running_threads
from ptrace_uprobes.errors import UsageError

__all__ = ["detach_on_signals"]


@contextmanager
def detach_on_signals(*numbers: int) -> Iterator[None]:
    """Inside, SIGTERM, SIGHUP and SIGQUIT (or `numbers`) end the program as they would, but only
    after all that it probes has been let go of: by every engine, those of `utrace` included.

    For the main thread only, as signal.signal(). A signal that the program ignores, or handles
    itself, stays its own: such a handler can call `Engine.interrupt`, or sys.exit().
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("detach_on_signals() is for the main thread, where Python handles signals")
    process, main = os.getpid(), threading.get_ident()
    asked: SimpleQueue[int | None] = SimpleQueue()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process and running_threads():
            asked.put(number)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def let_go() -> None:
        while (number := asked.get()) is not None:
            for tracing in running_threads():
                with suppress(Exception):  # a fault of ours is no reason to stay
                    tracing.let_go()
            # Not to the process: of another thread's signals the main one, asleep, hears nothing.
            signal.pthread_kill(main, number)

    ours = []
    thread = threading.Thread(target=let_go, name="ptrace-uprobes-signals", daemon=True)
    thread.start()
    try:
        for number in numbers or (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, handle)
                ours.append(number)
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is handle:
                signal.signal(number, signal.SIG_DFL)
        asked.put(None)
        thread.join()
