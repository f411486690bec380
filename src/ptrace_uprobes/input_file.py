"""Files that a user names as input, opened so that none of them can keep us waiting for ever."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
from typing import Final

from ptrace_uprobes.errors import InputError

__all__ = ["open_input"]

_NOBODY: Final = 3.0
"""Seconds until a FIFO without a writer is given up."""
_SILENCE: Final = 60.0
"""Seconds that a writer may say nothing."""
_NULL: Final = os.makedev(1, 3)
"""/dev/null, the one device that ends: Linux, Documentation/admin-guide/devices.txt."""
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK: the open of a FIFO waits for no writer, and a read of what is called a regular
file but blocks (/proc/kmsg, trace_pipe of tracefs) fails."""


def open_input(path: str, nobody: float = _NOBODY, silence: float = _SILENCE) -> io.BufferedReader:
    """Open a regular file, a pipe or a terminal for reading. It waits for a pipe's writer `nobody`
    seconds, and `silence` seconds for what that writes. Raises `InputError`, as its reads do."""
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        raise InputError(path, _why(error)) from error
    file = _Input(descriptor, path, nobody, silence)
    try:
        file.check()
    except BaseException:
        file.close()
        raise
    return io.BufferedReader(file)


class _Input(io.RawIOBase):
    """A descriptor that does not block, whose reads wait for a while."""

    def __init__(self, descriptor: int, path: str, nobody: float, silence: float) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._path = path
        self._nobody = nobody
        self._silence = silence
        self._may_begin_late = False

    def check(self) -> None:
        """Raise `InputError` if it is nothing that can be read to an end."""
        mode = os.fstat(self._descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(self._path, os.strerror(errno.EISDIR))
        if os.isatty(self._descriptor):
            os.set_blocking(self._descriptor, True)  # a user may take their time
            return
        self._may_begin_late = stat.S_ISFIFO(mode)
        is_null = stat.S_ISCHR(mode) and os.fstat(self._descriptor).st_rdev == _NULL
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or is_null):
            raise InputError(self._path, "it is a device, no file")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: Any
        data = self._read(len(buffer))
        # The end of a FIFO is also what it has while its first writer is yet to come; then it has
        # no event (fs/pipe.c, pipe_poll).
        if not data and self._may_begin_late:
            came = self._comes(self._nobody)
            data = self._read(len(buffer))  # waits, if a writer has only opened it
            if not (came or data or self._comes(0)):
                raise InputError(self._path, "it is a pipe that nobody writes to")
        self._may_begin_late = False
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        try:
            try:
                return os.read(self._descriptor, size)
            except BlockingIOError:
                if not self._comes(self._silence):
                    why = f"nothing has come from it for {self._silence:g} s"
                    raise InputError(self._path, why) from None
                return os.read(self._descriptor, size)
        except OSError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(self._path, _why(error)) from error

    def _comes(self, seconds: float) -> bool:
        """Whether there is something to read, or the end, within that time."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _why(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
