"""The user stack, by call frame information (DWARF 5, section 6.4; System V ABI, `.eh_frame`)."""

from __future__ import annotations

from ptrace_uprobes.unwind.loaded import LoadedModules
from ptrace_uprobes.unwind.stack import Frame, Stack
from ptrace_uprobes.unwind.walker import Unwinder

__all__ = ["Frame", "LoadedModules", "Stack", "Unwinder"]
