"""What must hold of a process that an engine has let go of."""

from __future__ import annotations

from tests.support.procfs import (
    altered_text,
    process_state,
    status_fields,
    thread_ids,
    wait_until,
)
from tests.support.target import Target

__all__ = ["UNHARMED", "assert_let_go"]

UNHARMED = {"did_work": 1, "ticked": 1, "wrong": 0, "strange_rips": 0}
"""What server.c reports of itself if nobody has disturbed it."""


def assert_let_go(target: Target) -> None:
    """It is traced by nobody, holds no trap, and none of its threads is stopped."""
    assert status_fields(target.pid)["TracerPid"] == "0"
    # Someone else's kernel uprobe in libc shows in every process that maps it.
    altered = [where for where in altered_text(target.pid) if "/libc.so" not in where[0]]
    assert altered == []
    for tid in thread_ids(target.pid):
        wait_until("it runs", lambda tid=tid: process_state(tid) in "RSX")  # type: ignore[misc]
