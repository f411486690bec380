"""Guards around every test: no process left behind, and an end even to a hang in a system call."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.support.procfs import descendants

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

# pytest-timeout ends a test by an exception in the main thread. Where that is not heard (a
# tracer that waits in the kernel for a tracee nobody resumes), this ends the whole run.
_HARD_LIMIT = {"test": 300, "soak": 2400}


def pytest_configure(config: pytest.Config) -> None:
    # Orphans of a failed test become our children, so that they can be found and ended.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture(autouse=True)
def hard_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    kind = "soak" if request.node.get_closest_marker("soak") else "test"
    faulthandler.dump_traceback_later(_HARD_LIMIT[kind], exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def no_process_left(hard_limit: None) -> Iterator[None]:
    """Ends the processes that a test started and left, whether it passed or failed."""
    before = set(descendants(os.getpid()))
    yield
    # An engine that a test has ended may still be clearing up, children of its own included.
    for thread in threading.enumerate():
        if thread.name.startswith("ptrace-uprobes"):
            thread.join(5)
    left = set(descendants(os.getpid())) - before
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for pid in left:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            continue
