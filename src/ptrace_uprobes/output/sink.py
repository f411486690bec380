"""Where the output goes: lines are gathered, and written whole.

write(2) to a pipe with up to PIPE_BUF bytes is atomic (pipe(7)), so what goes to a pipe that
the probed program writes to as well goes there in pieces that end with a line.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from ptrace_uprobes.errors import OutputError
from ptrace_uprobes.linux import limits

__all__ = ["Sink"]

_GATHERED: Final = 1 << 16
"""Characters that make a write due."""
_PERIOD: Final = 0.2
"""Seconds that a line waits at most for company."""
_PATIENCE: Final = 1.0
"""Seconds that a reader has left to take what is due, once the user wants us to end."""
_ATOMIC: Final = select.PIPE_BUF
_MOMENT: Final = 0.001
"""Seconds, where poll(2) is of no help."""


class Sink:
    """A file descriptor that lines go to. No call but `check` raises; the first failure is kept.

    A failed write cannot be raised where it happens: that is inside a handler, and a
    handler's exceptions are its own affair.
    """

    def __init__(self, descriptor: int, name: str, *, owned: bool) -> None:
        self.failure: OutputError | None = None
        self.on_failure: Callable[[], None] | None = None
        self._descriptor = descriptor
        self._name = name
        self._owned = owned
        self._limit = _GATHERED
        if os.isatty(descriptor):
            self._limit = 0
            self._take_terminal()
        self._lines: list[str] = []
        self._append = self._lines.append
        self._gathered = 0
        self._writing = threading.Lock()
        self._deadline: float | None = None
        self._closing = threading.Event()
        self._poller: select.poll | None = None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._poller = select.poll()
            self._poller.register(descriptor, select.POLLOUT)
        self._flusher = threading.Thread(target=self._flush_now_and_then, daemon=True)

    @classmethod
    def open(cls, path: str) -> Sink:
        """A file to write anew; raises `OutputError`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o666)
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot write {path}: {_why(error)}") from error
        return cls(descriptor, path, owned=True)

    @classmethod
    def over(cls, descriptor: int, name: str) -> Sink:
        """A descriptor that stays open afterwards; raises `OutputError`."""
        try:
            return cls(descriptor, name, owned=False)
        except OSError as error:
            raise OutputError(f"cannot write to {name}: {_why(error)}") from error

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        if self._flusher.is_alive():
            self._flusher.join()
        self.flush()
        if self._owned:
            try:
                os.close(self._descriptor)
            except OSError as failed:
                self._fail(failed)

    def flush_regularly(self) -> None:
        """From now on no line waits for the next one. Starts a thread: after the last fork."""
        if self._limit:
            limits.start(self._flusher)

    def write(self, text: str) -> None:
        """Whole lines, each with its end."""
        # Hot: once per hit.
        self._append(text)
        self._gathered += len(text)
        if self._gathered >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        with self._writing:
            lines = self._lines
            # Another thread may append meanwhile: what is taken is counted, not cleared.
            taken = len(lines)
            text = "".join(lines[:taken])
            del lines[:taken]
            self._gathered = 0
            if not text or self.failure is not None:
                return
            try:
                self._write_all(text.encode("utf-8", "surrogateescape"))
            except OSError as error:
                self._fail(error)

    def hasten(self) -> None:
        """The user wants us to end: a reader that does not read is waited for no longer.

        Safe in a signal handler.
        """
        if self._deadline is None:
            self._deadline = time.monotonic() + _PATIENCE

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self.failure is not None:
            raise self.failure

    def _take_terminal(self) -> None:
        """Of a terminal, poll(2) says only that it has some room; a longer write waits for its
        reader, and nothing wakes it. So we write by an open file of our own, which is non-blocking
        (as the one that we share with others must not be)."""
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            ours = os.open(f"/proc/self/fd/{self._descriptor}", flags)
        except OSError:
            return  # another user's: it works as long as it is read
        if self._owned:
            os.close(self._descriptor)
        self._descriptor, self._owned = ours, True

    def _write_all(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            end = len(data)
            if self._poller is not None:
                end = _end_of_piece(data, position)
                self._wait_for_reader(self._poller)
            try:
                position += os.write(self._descriptor, memoryview(data)[position:end])
            except BlockingIOError:
                # Another owner of the same open file made it non-blocking. Or there is room for a
                # byte, which poll(2) calls ready, and the end of a line takes two on a terminal
                # (do_output_char, drivers/tty/n_tty.c).
                self._check_patience()
                time.sleep(_MOMENT)

    def _wait_for_reader(self, poller: select.poll) -> None:
        """Return when there is room; poll(2) reports a closed pipe as ready too."""
        while not poller.poll(100):
            self._check_patience()

    def _check_patience(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OSError(errno.ETIMEDOUT, "its reader has stopped reading")

    def _fail(self, error: OSError) -> None:
        if self.failure is None:
            self.failure = OutputError(f"cannot write to {self._name}: {_why(error)}")
            self.failure.__cause__ = error
            if self.on_failure is not None:
                self.on_failure()

    def _flush_now_and_then(self) -> None:
        while not self._closing.wait(_PERIOD):
            if self._lines:
                self.flush()


def _end_of_piece(data: bytes, start: int) -> int:
    """The end of the longest run of whole lines from `start` that is written atomically."""
    if len(data) - start <= _ATOMIC:
        return len(data)
    line_end = data.rfind(b"\n", start, start + _ATOMIC)
    return line_end + 1 if line_end >= 0 else start + _ATOMIC


def _why(error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        reason = "it is closed"
    return reason or str(error)
