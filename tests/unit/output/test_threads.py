"""Facts of threads come from files that are kept open, and are never another thread's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from ptrace_uprobes.output.threads import ThreadFacts


def _in_a_thread(question: Callable[[int], object]) -> None:
    """Ask about a thread while it lives, and let it die."""
    started, done = threading.Event(), threading.Event()
    tids: list[int] = []

    def live() -> None:
        tids.append(threading.get_native_id())
        started.set()
        done.wait()

    thread = threading.Thread(target=live)
    thread.start()
    started.wait()
    question(tids[0])
    done.set()
    thread.join()


def test_a_dead_thread_is_unknown_and_no_error() -> None:
    facts = ThreadFacts("comm")
    seen: list[int] = []

    def ask(tid: int) -> None:
        seen.append(tid)
        assert facts.comm(os.getpid(), tid) != "?"

    _in_a_thread(ask)
    assert facts.comm(os.getpid(), seen[0]) in ("?", facts.comm(os.getpid(), os.getpid()))
    facts.close()


def test_files_of_threads_that_come_and_go_do_not_pile_up() -> None:
    facts = ThreadFacts("stat")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        _in_a_thread(lambda tid: facts.comm_and_cpu(os.getpid(), tid))
    assert len(os.listdir("/proc/self/fd")) <= before + 64
    facts.close()
    assert len(os.listdir("/proc/self/fd")) == before
