"""What of Go's runtime return probes have to know: which goroutine runs, and where its stack is.

Rules of the runtime (src/runtime/runtime2.go, stack.go, tls_linux_amd64.s): the running
goroutine's `g` is in thread-local storage, at FS-8 in a program that is linked without cgo and
by the thread-local symbol `runtime.tlsg` in general, and in R14 in Go's own functions
(cmd/compile/abi-internal.md). `g` begins with its stack's bounds, lo and hi. A stack that grows is
copied to another place with the distances to `hi` kept.
"""

from __future__ import annotations

import struct
from typing import Final

from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.tracee import Thread

__all__ = ["goroutine_frame"]

_TLS_G: Final = -8
_bounds = struct.Struct("<QQ")


def goroutine_frame(thread: Thread, stack_pointer: int) -> tuple[int, int] | None:
    """The running goroutine and the distance of `stack_pointer` to its stack's top; None if
    this is no goroutine's stack."""
    memory = thread.process.space.memory
    try:
        candidates = [ptrace_calls.peek_user(thread.tid, "r14")]
        fs_base = ptrace_calls.peek_user(thread.tid, "fs_base")
    except TraceeGone:
        return None
    word = memory.read_some(fs_base + _TLS_G, 8)
    if len(word) == 8:
        candidates.append(int.from_bytes(word, "little"))
    for goroutine in candidates:
        data = memory.read_some(goroutine, 16)
        if len(data) == 16:
            low, high = _bounds.unpack(data)
            if low < stack_pointer <= high:
                return goroutine, high - stack_pointer
    return None
