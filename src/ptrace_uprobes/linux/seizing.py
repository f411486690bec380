"""PTRACE_SEIZE that can be broken off.

Of all ptrace requests it alone may wait: for `cred_guard_mutex`, which an exec in a sister thread
holds until all other threads of its process are gone (kernel/ptrace.c, ptrace_attach; fs/exec.c,
de_thread). Those of them that are traced already are gone only when their tracer, which waits
here, has let them exit. A signal does not help by itself: the wait answers ERESTARTNOINTR, and
begins anew whatever the handler's flags are. So our handler steps over the call.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import threading
import time
from types import TracebackType
from typing import Final

from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import SeizeOptions, TraceeGone

__all__ = ["Seizing"]

_TOO_LONG: Final = 0.02
_LOOK: Final = 0.01
_SIGNAL: Final = signal.SIGRTMAX - 2
_SA_SIGINFO: Final = 4
_HANDLER: Final = bytes.fromhex(
    "488b82a8000000"  # mov 0xa8(%rdx), %rax     ucontext: RIP
    "6681380f05"  # cmpw $0x050f, (%rax)         at a `syscall`,
    "751d"  # jne out
    "4883ba9000000065"  # cmpq $101, 0x90(%rdx)  and that to be ptrace(2)?
    "7513"  # jne out
    "488382a800000002"  # addq $2, 0xa8(%rdx)    go on behind it
    "48c78290000000fcffffff"  # movq $-4, 0x90(%rdx)  with EINTR
    "c3"  # out: ret
)


class _Action(ctypes.Structure):
    """struct sigaction of the C library."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_libc = ctypes.CDLL(None, use_errno=True)  # which gives up the interpreter lock
_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


class Seizing:
    """Within this context threads can be seized, by the thread that entered it."""

    def __init__(self) -> None:
        self._since = 0.0
        """When the seize that is under way began; 0 if none is."""
        self._ended = threading.Event()
        self._thread = threading.get_ident()
        self._mask: set[int] = set()
        self._watch = threading.Thread(target=self._look, name="ptrace-uprobes-seize", daemon=True)

    def __enter__(self) -> Seizing:
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, (_SIGNAL,))
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._watch.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def seize(self, tid: int) -> None:
        """Raises `TraceeGone`, InterruptedError if it was broken off, OSError if refused."""
        self._since = time.monotonic()
        ctypes.set_errno(0)
        result = _ptrace(ptrace_calls.SEIZE, tid, 0, SeizeOptions.ALL)
        code = ctypes.get_errno()
        self._since = 0.0
        if result != -1:
            return
        if code == errno.ESRCH:
            raise TraceeGone(tid)
        raise OSError(code, f"PTRACE_SEIZE of {tid}: {os.strerror(code)}")

    def _look(self) -> None:
        while not self._ended.wait(_LOOK):
            if self._since and time.monotonic() - self._since > _TOO_LONG:
                self._break_off()

    def _break_off(self) -> None:
        """The signal is ours for a moment only: it is the program's that we are part of."""
        every = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        try:
            page = mmap.mmap(-1, mmap.PAGESIZE, prot=every)
        except OSError:
            return  # forbidden, by SELinux for instance: docs/limits.md
        page.write(_HANDLER)
        place = ctypes.c_char.from_buffer(page)
        ours = _Action(handler=ctypes.addressof(place), flags=_SA_SIGINFO)
        before = _Action()
        _libc.sigaction(_SIGNAL, ctypes.byref(ours), ctypes.byref(before))
        since = self._since
        while since and self._since == since and not self._ended.is_set():
            signal.pthread_kill(self._thread, _SIGNAL)
            time.sleep(_LOOK)
        _libc.sigaction(_SIGNAL, ctypes.byref(before), None)
        del place
        page.close()
