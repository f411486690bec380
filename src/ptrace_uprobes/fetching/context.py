"""What fetching needs of a stopped thread; the engine fulfils it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["FetchContext"]


class FetchContext(Protocol):
    """One thread at one hit. One object serves every hit: nothing keeps it."""

    registers: bytearray
    """`struct user_regs_struct` as PTRACE_GETREGS gives it, if `Fetcher.needs_registers`.
    The instruction pointer in it is not looked at: `address` is."""
    tid: int
    pid: int
    address: int
    """Where the thread stands: the probed place, or the return address at a return."""
    function: int
    """The probed place."""

    def comm(self) -> bytes:
        """The thread's name."""
        ...

    def cpu(self) -> int:
        """The processor it ran on last."""
        ...

    def read(self, address: int, size: int, /) -> bytes:
        """As many of `size` bytes as are mapped from `address` on, none if it is not; traps
        are not shown. Any address below 2**64 may be asked for."""
        ...

    def xmm(self, number: int, /) -> bytes:
        """The 16 bytes of a vector register."""
        ...
