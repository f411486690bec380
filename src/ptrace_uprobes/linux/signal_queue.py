"""Signals put back into the queue of a thread that has been asked to wait for them."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["send_again"]

_SYS_RT_TGSIGQUEUEINFO: Final = 297
_SYS_TGKILL: Final = 234

_libc = ctypes.PyDLL(None)
_libc.syscall.restype = ctypes.c_long


def send_again(pid: int, tid: int, number: int, info: bytearray) -> None:
    """Queue a signal anew, with its siginfo where the kernel lets us (rt_tgsigqueueinfo(2))."""
    buffer = (ctypes.c_char * len(info)).from_buffer_copy(info)
    if _libc.syscall(_SYS_RT_TGSIGQUEUEINFO, pid, tid, number, ctypes.byref(buffer)) != 0:
        _libc.syscall(_SYS_TGKILL, pid, tid, number)
