"""Blocking handlers never wait for each other, and their threads are used again."""

from __future__ import annotations

import threading

from ptrace_uprobes.engine.workers import Workers
from tests.support.procfs import wait_until

LIMIT = 20.0


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name == "ptrace-uprobes-handler"}


def test_as_many_jobs_run_at_once_as_there_are() -> None:
    # GIVEN jobs that end only when all of them run
    workers = Workers()
    together = threading.Barrier(12)
    done = threading.Semaphore(0)

    def job() -> None:
        together.wait(LIMIT)
        done.release()

    # WHEN they are submitted one after the other
    for _ in range(12):
        workers.submit(job)

    # THEN all end
    assert all(done.acquire(timeout=LIMIT) for _ in range(12))
    _end(workers)


def test_a_thread_that_is_idle_is_used_again() -> None:
    workers = Workers()
    used = set()
    for _ in range(50):
        ended = threading.Event()

        def job(ended: threading.Event = ended) -> None:
            used.add(threading.current_thread())
            ended.set()

        workers.submit(job)
        assert ended.wait(LIMIT)
        wait_until("it is idle", lambda: workers._idle == 1)
    assert len(used) == 1
    _end(workers)


def test_jobs_from_many_threads_all_run_once() -> None:
    # GIVEN several threads that submit
    workers = Workers()
    lock = threading.Lock()
    ran: list[int] = []
    done = threading.Semaphore(0)

    def submit(first: int) -> None:
        for number in range(first, first + 100):

            def job(number: int = number) -> None:
                with lock:
                    ran.append(number)
                done.release()

            workers.submit(job)

    submitters = [threading.Thread(target=submit, args=(n * 100,)) for n in range(4)]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join()

    # THEN each job has run
    assert all(done.acquire(timeout=LIMIT) for _ in range(400))
    assert sorted(ran) == list(range(400))
    _end(workers)


def test_the_threads_keep_no_interpreter_from_ending() -> None:
    workers = Workers()
    seen: list[bool] = []
    ended = threading.Event()

    def job() -> None:
        seen.append(threading.current_thread().daemon)
        ended.set()

    workers.submit(job)
    assert ended.wait(LIMIT)
    assert seen == [True]
    _end(workers)


def test_closing_ends_the_idle_threads() -> None:
    before = _threads()
    workers = Workers()
    ended = threading.Event()
    workers.submit(ended.set)
    assert ended.wait(LIMIT)
    wait_until("it is idle", lambda: workers._idle == 1)
    workers.close()
    wait_until("it has ended", lambda: _threads() <= before)


def test_a_thread_that_is_busy_when_the_pool_closes_ends_after_its_job() -> None:
    # GIVEN a job that is running
    before = _threads()
    workers = Workers()
    started, release = threading.Event(), threading.Event()

    def job() -> None:
        started.set()
        release.wait(LIMIT)

    workers.submit(job)
    assert started.wait(LIMIT)
    (thread,) = _threads() - before

    # WHEN the pool is closed, and the job ends
    workers.close()
    release.set()

    # THEN so does its thread
    thread.join(LIMIT)
    assert not thread.is_alive()


def _end(workers: Workers) -> None:
    """No thread of a test's stays behind."""
    wait_until("all are idle", lambda: not _busy(workers))
    workers.close()


def _busy(workers: Workers) -> bool:
    return workers._jobs.qsize() > 0 or workers._idle < 1
