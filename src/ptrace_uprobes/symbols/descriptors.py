"""A bounded number of open files: a program may have thousands of libraries.

Which are open is decided by use. A file that was closed is opened anew by its path, and is another
one if something else lies there by now.
"""

from __future__ import annotations

import itertools
import os
import resource
import stat
import threading
import weakref
from collections import OrderedDict
from typing import Final

__all__ = ["MOST_OPEN", "KeptFile"]

MOST_OPEN: Final = 64
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK: a FIFO must not make us wait."""

_serial = itertools.count()
_lock = threading.RLock()
"""Held while a descriptor is in use: reads come from handlers' threads too. Reentrant, since the
garbage collector may end a file anywhere."""
_open: OrderedDict[int, int] = OrderedDict()
"""Descriptors by the files' serial numbers, the one that was used last at the end."""


class KeptFile:
    """A regular file, open whenever there is room for it."""

    __slots__ = ("__weakref__", "_drop", "_serial", "path", "status")

    def __init__(self, path: str) -> None:
        """Raises `OSError`; for what is no regular file, without opening that: opening a device
        can do things."""
        self.path = path
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(0, "it is not a regular file")
        self._serial = next(_serial)
        self._drop = weakref.finalize(self, _close, self._serial)
        with _lock:
            self.status = os.fstat(self._descriptor())
        if not stat.S_ISREG(self.status.st_mode):
            self.close()
            raise OSError(0, "it is not a regular file")

    def close(self) -> None:
        self._drop()

    def read(self, size: int, offset: int) -> bytes:
        """As pread(2). Raises `OSError`."""
        with _lock:
            return os.pread(self._at_hand(), size, offset)

    def look(self) -> os.stat_result:
        """What fstat(2) says now. Raises `OSError`."""
        with _lock:
            return os.fstat(self._at_hand())

    def _at_hand(self) -> int:
        known = _open.get(self._serial)
        if known is not None:
            _open.move_to_end(self._serial)
            return known
        descriptor = self._descriptor()
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != (self.status.st_dev, self.status.st_ino):
            _close(self._serial)
            raise OSError(0, "another file has taken its place")
        return descriptor

    def _descriptor(self) -> int:
        while len(_open) >= _room():
            _close(next(iter(_open)))
        descriptor = _open[self._serial] = os.open(self.path, _FLAGS)
        return descriptor


def _room() -> int:
    """A quarter of what this process may have open, at the most."""
    return max(2, min(MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


def _close(serial: int) -> None:
    with _lock:
        descriptor = _open.pop(serial, None)
        if descriptor is not None:
            os.close(descriptor)
