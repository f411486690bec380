"""The interface of the 2007 proposal: handlers are registered, then associated with breakpoints.

    register_handler("uprobe_handler", function)
    utrace_addbp(pid, 0x401030, UTRACE_HANDLER, "uprobe_handler")
    utrace_addbp(pid, "libc:malloc", UTRACE_GETREGS | UTRACE_STACKTRACE)
    for record in utrace_read(pid): ...
    utrace_rmbp(pid, 0x401030)

Every call may be made from any thread while the program runs, registered handlers included.
Errors are of the tree in `ptrace_uprobes.errors`, are `OSError`s too, and have `errno` set.
docs/proposal.md goes through the proposal point by point.
"""

from __future__ import annotations

from ptrace_uprobes.utrace.breakpoint import (
    UTRACE_GETDATA,
    UTRACE_GETREGS,
    UTRACE_HANDLER,
    UTRACE_KHANDLER,
    UTRACE_STACKTRACE,
    Breakpoint,
)
from ptrace_uprobes.utrace.calls import (
    utrace_addbp,
    utrace_launch,
    utrace_lsbp,
    utrace_read,
    utrace_rmbp,
    utrace_setbp,
)
from ptrace_uprobes.utrace.handlers import register_handler, unregister_handler
from ptrace_uprobes.utrace.log import Record, Records
from ptrace_uprobes.utrace.refusals import (
    AlreadyThere,
    HandlerInUse,
    InvalidRequest,
    NothingThere,
    UtraceError,
)

__all__ = [
    "UTRACE_GETDATA",
    "UTRACE_GETREGS",
    "UTRACE_HANDLER",
    "UTRACE_KHANDLER",
    "UTRACE_STACKTRACE",
    "AlreadyThere",
    "Breakpoint",
    "HandlerInUse",
    "InvalidRequest",
    "NothingThere",
    "Record",
    "Records",
    "UtraceError",
    "register_handler",
    "unregister_handler",
    "utrace_addbp",
    "utrace_launch",
    "utrace_lsbp",
    "utrace_read",
    "utrace_rmbp",
    "utrace_setbp",
]
