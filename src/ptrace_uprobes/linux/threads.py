"""Starting threads and processes where there may be too many."""

from __future__ import annotations

import errno
import threading
from typing import Final

__all__ = ["SEE_LIMITS", "start"]

SEE_LIMITS: Final = "see `ulimit -u`, and pids.max of the cgroup"


def start(thread: threading.Thread) -> None:
    """`thread.start`; raises OSError where the system has no thread left to give."""
    try:
        thread.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, f"no thread can be started: {SEE_LIMITS}") from None
