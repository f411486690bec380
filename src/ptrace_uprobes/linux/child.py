"""Children of the tracer's thread, made by fork(2).

All kinds run a handful of C calls and nothing else: what other threads held when they were
forked is not to be relied on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from typing import Final

from ptrace_uprobes.linux.guardian import Guardian
from ptrace_uprobes.linux.limits import SEE_LIMITS

__all__ = ["PausedChild", "kill_quietly", "spawn_doorbell", "spawn_paused"]

_libc = ctypes.PyDLL(None, use_errno=True)
for _name in ("read", "write", "signal"):
    getattr(_libc, _name).restype = ctypes.c_long
_libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.syscall.restype = ctypes.c_long

_PR_SET_PDEATHSIG: Final = 1
_PTRACE_TRACEME: Final = 0
_SYS_CLOSE_RANGE: Final = 436
_SIG_DFL: Final = 0
_NO_ZOMBIES: Final = bytes(8 + 128) + (2).to_bytes(8, "little") + bytes(8)
"""glibc's struct sigaction: SIG_DFL, an empty mask, SA_NOCLDWAIT."""
_F_DUPFD: Final = 0
_OUT_OF_THE_WAY: Final = 16


def kill_quietly(pid: int, number: int) -> None:
    """kill(2) where the process may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _fork() -> int:
    """os.fork, which also gives the child an interpreter lock that no thread waits for.

    It warns of threads from Python 3.12 on; what it warns of is kept by the module's rule.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return os.fork()
        except BlockingIOError as error:
            raise OSError(error.errno, f"no process can be started: {SEE_LIMITS}") from None


class PausedChild:
    """A child that waits before its execve until it is released; then `failure` tells of it."""

    __slots__ = ("_failure_fd", "_go_fd", "pid")

    def __init__(self, pid: int, go_fd: int, failure_fd: int) -> None:
        self.pid = pid
        self._go_fd = go_fd
        self._failure_fd = failure_fd

    def release(self) -> None:
        """Let it execve."""
        os.write(self._go_fd, b"g")
        os.close(self._go_fd)

    def abandon(self) -> None:
        """Close what is open; the child, if it still waits, ends."""
        for descriptor in (self._go_fd, self._failure_fd):
            try:
                os.close(descriptor)
            except OSError:
                pass  # closed already

    def failure(self) -> int:
        """0 once the execve has succeeded, else its errno. Blocks until one is known."""
        data = os.read(self._failure_fd, 4)
        os.close(self._failure_fd)
        return int.from_bytes(data, "little")


def spawn_paused(
    paths: Sequence[str],
    argv: Sequence[str],
    environment: Mapping[str, str] | None,
    cwd: str | None,
) -> PausedChild:
    """Fork a child that will execve the first of `paths` that exists, with Python's own
    changes to signal dispositions undone, as subprocess does.

    Without an `environment` it gets ours as it is, in its order and with what is no text."""
    arguments = (ctypes.c_char_p * (len(argv) + 1))(*[os.fsencode(a) for a in argv], None)
    environ: object = ctypes.c_void_p.in_dll(_libc, "environ")
    if environment is not None:
        pairs = [os.fsencode(k) + b"=" + os.fsencode(v) for k, v in environment.items()]
        environ = (ctypes.c_char_p * (len(pairs) + 1))(*pairs, None)
    candidates = [ctypes.c_char_p(os.fsencode(path)) for path in paths]
    directory = ctypes.c_char_p(os.fsencode(cwd)) if cwd is not None else None
    go_read, go_write = os.pipe()
    failure_read, failure_write = os.pipe()
    byte = ctypes.create_string_buffer(4)
    libc, get_errno = _libc, ctypes.get_errno
    is_path = len(candidates) == 1
    restored = [int(signal.SIGPIPE), int(signal.SIGXFSZ)]

    pid = _fork()
    if pid == 0:
        libc.close(go_write)
        libc.close(failure_read)
        if libc.read(go_read, byte, 1) != 1:
            libc._exit(125)  # the tracer died or gave up before it let us go
        for number in restored:
            libc.signal(number, _SIG_DFL)
        code = 0
        if directory is not None and libc.chdir(directory) != 0:
            code = get_errno()
        if code == 0:
            for candidate in candidates:
                libc.execve(candidate, arguments, environ)
                failed = get_errno()
                # As execvp(3): go on past what is not there, but remember a file that may not run.
                if failed not in (errno.ENOENT, errno.ENOTDIR):
                    code = failed
                    if failed != errno.EACCES:
                        break
            # Of several that are nowhere none is to blame.
            code = code or (failed if is_path else errno.ENOENT)
        byte.raw = code.to_bytes(4, "little")
        libc.write(failure_write, byte, 4)
        libc._exit(125)
    os.close(go_read)
    os.close(failure_write)
    return PausedChild(pid, go_write, failure_read)


def spawn_doorbell(guardian: Guardian | None = None) -> int:
    """A child that only sleeps and dies with the calling thread.

    The tracer's thread blocks in waitpid(2), and no other thread can wake it but through an
    event of one of its children: a signal to this one, traced as it is, is such an event.
    Signals wait until it has come so far as to be traced.

    It starts the `guardian` before that, as its own child. Whose end it is told of by SIGCHLD: a
    ring like any other.
    """
    libc = _libc
    parent = os.getpid()
    start = None if guardian is None else _Exec(guardian)
    no_zombies = _NO_ZOMBIES  # which leaves the signal, as SIG_IGN would not
    mask, everything = signal.pthread_sigmask, signal.valid_signals()
    before = mask(signal.SIG_SETMASK, everything)
    try:
        pid = _fork()
    except OSError:
        mask(signal.SIG_SETMASK, before)
        raise
    if pid == 0:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if libc.getppid() != parent:
            libc._exit(0)  # the parent died before the request was in force
        libc.setsid()  # the terminal's signals are not for it
        libc.sigaction(int(signal.SIGCHLD), no_zombies, None)
        if start is not None:
            start.fork()
        # Not seized by us: that may be refused where the tracer itself is not dumpable.
        libc.ptrace(_PTRACE_TRACEME, 0, 0, 0)
        libc.syscall(_SYS_CLOSE_RANGE, 0, 0xFFFFFFFF, 0)  # holds no pipe open
        mask(signal.SIG_SETMASK, ())
        while True:
            libc.pause()
    mask(signal.SIG_SETMASK, before)
    return pid


class _Exec:
    """All that the guardian's start needs, made before the fork."""

    __slots__ = ("_argv", "_descriptors", "_guardian", "_spare")

    def __init__(self, guardian: Guardian) -> None:
        argv = [os.fsencode(word) for word in guardian.argv]
        self._argv = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
        self._descriptors = guardian.descriptors
        self._guardian = guardian
        # As many again, out of the way of the numbers that they are to have.
        self._spare = [0] * len(self._descriptors)

    def fork(self) -> None:
        """In the doorbell's process: start it, and note its number in the ledger."""
        libc = _libc
        pid = libc.fork()
        if pid:
            if pid > 0:
                self._guardian.ledger.note_guardian(pid)
            else:
                self._guardian.ledger.note_no_guardian()
            return
        libc.setsid()
        libc.chdir(b"/")  # holds no file system
        for number, descriptor in enumerate(self._descriptors):
            self._spare[number] = libc.fcntl(descriptor, _F_DUPFD, _OUT_OF_THE_WAY)
        for number, descriptor in enumerate(self._spare):
            libc.dup2(descriptor, 3 + number)
        null = libc.open(b"/dev/null", os.O_RDWR)
        for number in range(3):
            libc.dup2(null, number)
        libc.syscall(_SYS_CLOSE_RANGE, 3 + len(self._spare), 0xFFFFFFFF, 0)
        libc.execve(self._argv[0], self._argv, ctypes.c_void_p.in_dll(libc, "environ"))
        libc._exit(127)
