"""Facts of threads come from files that are kept open, and are never another thread's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

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
    facts = ThreadFacts()
    seen: list[int] = []

    def ask(tid: int) -> None:
        seen.append(tid)
        assert facts.comm(os.getpid(), tid) != "?"

    _in_a_thread(ask)
    assert facts.comm(os.getpid(), seen[0]) in ("?", facts.comm(os.getpid(), os.getpid()))
    facts.close()


def test_files_of_threads_that_come_and_go_do_not_pile_up() -> None:
    facts = ThreadFacts()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        _in_a_thread(lambda tid: facts.comm_and_cpu(os.getpid(), tid))
    assert len(os.listdir("/proc/self/fd")) <= before + 64
    facts.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_head_has_the_name_and_the_cpu_of_a_thread_that_may_run_on_one_only() -> None:
    # GIVEN a thread that is kept on one CPU
    allowed = os.sched_getaffinity(0)
    facts = ThreadFacts(lambda comm, tid, cpu: f"{comm}/{tid}/{cpu}")
    pid, tid = os.getpid(), threading.get_native_id()
    comm = Path("/proc/thread-self/comm")
    before = comm.read_text()[:-1]
    try:
        for cpu in (max(allowed), min(allowed)):
            os.sched_setaffinity(0, {cpu})
            # WHEN it is asked for, again and again, and the thread renames itself meanwhile
            for name in ("one", "one", "another"):
                comm.write_text(name)
                # THEN each answer is that of the moment
                assert facts.head(pid, tid) == f"{name}/{tid}/{cpu}"
    finally:
        os.sched_setaffinity(0, allowed)
        comm.write_text(before)
        facts.close()


def test_the_cpu_of_a_thread_that_may_run_anywhere_is_where_it_ran_last() -> None:
    facts = ThreadFacts(lambda comm, tid, cpu: f"{cpu}")
    seen: list[bool] = []

    def ask(tid: int) -> None:
        # It waits: the CPU that it ran on last stays the same.
        where = Path(f"/proc/self/task/{tid}/stat").read_text().rpartition(")")[2].split()[36]
        seen.append(facts.head(os.getpid(), tid) == where)

    _in_a_thread(ask)
    assert seen == [True]
    facts.close()


def test_a_head_of_a_dead_thread_is_unknown_and_no_error() -> None:
    facts = ThreadFacts(lambda comm, tid, cpu: f"{comm} {cpu}")
    assert facts.head(2**22 + 1, 2**22 + 1) == "? 0"
