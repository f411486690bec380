"""What each hit records beyond its fetchargs: the proposal's predefined handlers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LONGEST_DATA", "NOTHING", "Request"]

LONGEST_DATA = 1 << 16
"""Bytes of `data` that may be asked for at each hit."""


@dataclass(frozen=True, slots=True)
class Request:
    """`--request`, in the proposal's words UTRACE_GETREGS, UTRACE_GETDATA, UTRACE_STACKTRACE."""

    regs: bool = False
    data_length: int | None = None
    """Bytes to log at the address in the first argument; None: no data."""
    stack: bool = False

    def __bool__(self) -> bool:
        return self.regs or self.stack or self.data_length is not None


NOTHING = Request()
