"""What of Go's runtime return probes have to know: which goroutine runs, and where its stack is.

Rules of the runtime (src/runtime/runtime2.go, stack.go, tls_linux_amd64.s): the running
goroutine's `g` is in thread-local storage, at FS-8 in a program that is linked without cgo and
by the thread-local symbol `runtime.tlsg` in general, and in R14 in Go's own functions
(cmd/compile/abi-internal.md); on 386 it is at GS-4, and in no register (sys_linux_386.s). `g`
begins with its stack's bounds, lo and hi. A stack that grows is copied to another place with the
distances to `hi` kept.
"""

from __future__ import annotations

import struct

from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.tracee import Thread

__all__ = ["goroutine_frame"]

_bounds = {4: struct.Struct("<II"), 8: struct.Struct("<QQ")}


def goroutine_frame(thread: Thread, stack_pointer: int) -> tuple[int, int] | None:
    """The running goroutine and the distance of `stack_pointer` to its stack's top; None if
    this is no goroutine's stack."""
    memory = thread.process.space.memory
    size = thread.word
    try:
        candidates = [ptrace_calls.peek_user(thread.tid, "r14")] if size == 8 else []
        tls_base = ptrace_calls.peek_user(thread.tid, "fs_base" if size == 8 else "gs_base")
    except TraceeGone:
        return None
    word = memory.read_some(tls_base - size, size)
    if len(word) == size:
        candidates.append(int.from_bytes(word, "little"))
    for goroutine in candidates:
        data = memory.read_some(goroutine, 2 * size)
        if len(data) == 2 * size:
            low, high = _bounds[size].unpack(data)
            if low < stack_pointer <= high:
                return goroutine, high - stack_pointer
    return None
