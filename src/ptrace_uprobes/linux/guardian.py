"""Our side of the guardian: the process that undoes in the tracees what we cannot if we are killed.

It is a child of the doorbell, which is forked in any case, so that starting it costs us nothing
and no wait of the embedding program's meets it. It has a session of its own, and of our
descriptors only those that it needs.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ptrace_uprobes.linux.ledger import Account, Ledger

__all__ = ["Guardian"]

_PROGRAM: Final = Path(__file__).with_name("guardian_main.py")
_PATIENCE_MS: Final = 1000
_START_UP: Final = 0.25
"""Seconds that are waited at most for its interpreter, which is no condition for anything."""
_MOMENT: Final = 0.0002


class Guardian:
    """Made before it is started; `argv` and `descriptors` are for `child.spawn_doorbell`.

    Raises OSError if the kernel lacks something, or nothing is left of it.
    """

    __slots__ = (
        "_gone",
        "_its_pid",
        "_pidfd",
        "_socket",
        "_spawned",
        "_theirs",
        "_tracer",
        "ledger",
        "lost",
    )

    def __init__(self) -> None:
        if not sys.executable or not _PROGRAM.exists():
            raise FileNotFoundError("no Python interpreter to run it with")
        self.ledger = Ledger()
        try:
            self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            self.ledger.close()
            raise
        self._socket.setblocking(False)
        self._tracer = _pidfd(os.getpid())
        self._spawned = 0.0
        self._its_pid = 0
        self._pidfd = -1
        self._gone = False
        self.lost: Callable[[], None] = lambda: None
        """Called when something can be guarded no more."""

    @property
    def argv(self) -> list[str]:
        # -I and -S: nothing of the user's is imported; -X frozen_modules is the default there.
        return [sys.executable, "-I", "-S", str(_PROGRAM)]

    @property
    def descriptors(self) -> list[int]:
        """To become 3, 4 and so on."""
        ours = [self._theirs.fileno(), self.ledger.fd]
        return [*ours, self._tracer] if self._tracer >= 0 else ours

    def started(self) -> None:
        """The doorbell has it now; our copies of what is its own are closed."""
        self._spawned = time.monotonic()
        self._theirs.close()
        if self._tracer >= 0:
            os.close(self._tracer)
            self._tracer = -1

    def wait_started(self) -> None:
        """Until it is a process of its own: the doorbell, which starts it, dies with us."""
        deadline = time.monotonic() + _PATIENCE_MS / 1000
        while not (self.ledger.guardian or self.failed) and time.monotonic() < deadline:
            time.sleep(_MOMENT)

    @property
    def failed(self) -> bool:
        """It could not be started: there are too many processes."""
        return self.ledger.has_no_guardian

    def wait_watching(self) -> None:
        """Until its interpreter has started up, which takes a processor for some milliseconds; a
        thread that stood still for us meanwhile might have to wait for that processor."""
        deadline = self._spawned + _START_UP
        while not self.ledger.is_watched and time.monotonic() < deadline:
            time.sleep(_MOMENT)

    @property
    def has_begun(self) -> bool:
        """Whether its interpreter has started up."""
        return self.ledger.is_watched

    def open(self, owner: int, pid: int, memory: int) -> Account:
        """An account for an address space whose /proc/PID/mem is `memory`."""
        self._tell(owner, pid, memory)
        return Account(self.ledger, owner)

    def close(self, account: Account) -> None:
        account.close()
        self._tell(account.owner, 0, None)

    def _tell(self, owner: int, pid: int, memory: int | None) -> None:
        extra = []
        if memory is not None:
            descriptors = array.array("i", [memory])
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        try:
            self._socket.sendmsg([f"{owner} {pid}".encode()], extra, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass  # it is busy: this one has its last resort, and is found if it is a fork child
        except OSError:
            self.lost()

    def act(self) -> None:
        """Have it put everything right now: we are not able to, and trace no more."""
        self._tell(0, 0, None)
        self._socket.close()

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or is about to."""
        self._find()
        return not self._gone and (self._pidfd < 0 or not _ended(self._pidfd, 0))

    def _find(self) -> None:
        if self._pidfd < 0 and self.ledger.guardian:
            self._its_pid = self.ledger.guardian
            self._pidfd = _pidfd(self._its_pid)
            self._gone = self._pidfd < 0 and not Path(f"/proc/{self._its_pid}").exists()

    def end(self) -> None:
        """Nothing is left to guard. It is gone when this returns."""
        self._find()
        self.ledger.close()
        self._socket.close()
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            _ended(self._pidfd, _PATIENCE_MS)
            os.close(self._pidfd)
            # Where we are a subreaper (prctl(2)), its parent's end has made it our child.
            try:
                os.waitpid(self._its_pid, os.WNOHANG)
            except ChildProcessError:
                pass


def _pidfd(pid: int) -> int:
    """-1 if the kernel has none (before 5.3), or the process is gone."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def _ended(pidfd: int, milliseconds: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))
