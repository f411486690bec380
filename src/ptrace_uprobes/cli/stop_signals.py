"""The signals that ask us to end: detach cleanly, print the summary, exit.

Python runs a signal's handler on the main thread between two bytecodes, wherever that is, in
another handler too: signals that come faster than they are handled nest until the stack ends.
So the first that comes has the others ignored. While something is traced it is noted, and
what was registered is called; it raises only before and after, where nothing can be left
half done.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

__all__ = ["StopRequested", "StopSignals"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class StopRequested(KeyboardInterrupt):
    """A stop signal came while nothing was traced. Not an `Exception`: it passes user code."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class StopSignals:
    """Within this context the signals are ours. Afterwards they are as they were, or ignored if one
    came: who insists does not mean to kill us while we write what is left and exit."""

    def __init__(self, *, launching: bool) -> None:
        self.received: int | None = None
        """The last stop signal."""
        self._launching = launching
        self._actions: tuple[Callable[[], None], ...] = ()
        self._deferred = False
        self._abandoning = False
        self._handling = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in _SIGNALS:
            before = signal.getsignal(number)
            # nohup and the background jobs of a script ignore signals. A COMMAND inherits that,
            # and would not if we caught the signal (execve(2) resets what is caught). And
            # SIGHUP is ignored for a reason. Else a request to end is a request to end.
            if before is signal.SIG_IGN and (self._launching or number == signal.SIGHUP):
                continue
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.received is None:
            for number, before in self._before.items():
                signal.signal(number, before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """What runs inside is not interrupted, however often the user insists."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """What runs inside may be given up, also after a signal that ended what was before it."""
        self._abandoning = True
        try:
            self._dispose(self._handle)
            yield
        finally:
            self._abandoning = False
            if self.received is not None:
                self._dispose(signal.SIG_IGN)

    @contextmanager
    def calling(self, *actions: Callable[[], None]) -> Iterator[None]:
        """Inside, a signal calls the actions; one that came before does so on entry."""
        self._actions = actions
        try:
            if self.received is not None:
                self._act()
            yield
        finally:
            self._actions = ()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._handling:
            return
        self._handling = True
        try:
            self._dispose(signal.SIG_IGN)
            is_first = self.received is None
            self.received = number
            self._act()
        finally:
            self._handling = False
        # One is enough to end us: what is then written or tidied up is not broken off by the next.
        if not self._deferred and (is_first or self._abandoning):
            raise StopRequested(number)

    def _dispose(self, disposition: Any) -> None:
        for number in self._before:
            signal.signal(number, disposition)

    def _act(self) -> None:
        for action in self._actions:
            action()
