"""What the system has no more of to give: how that is said, with where to look."""

from __future__ import annotations

import errno
import threading
from typing import Final

__all__ = ["SEE_DESCRIPTORS", "SEE_LIMITS", "reason", "start"]

SEE_LIMITS: Final = "see `ulimit -u`, and pids.max of the cgroup"
SEE_DESCRIPTORS: Final = "see `ulimit -n`"


def start(thread: threading.Thread) -> None:
    """`thread.start`; raises OSError where the system has no thread left to give."""
    try:
        thread.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, f"no thread can be started: {SEE_LIMITS}") from None


def reason(error: OSError) -> str:
    """For who has to do something about it."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"there are too few file descriptors: {SEE_DESCRIPTORS}"
    return str(error)
