"""Uprobes in user space: probe any instruction of a Linux program through ptrace."""

from __future__ import annotations

from ptrace_uprobes.engine import Engine, Result, SitePlan, attach, launch
from ptrace_uprobes.errors import (
    AlreadyTraced,
    BadAddress,
    BadFilter,
    BadSpec,
    CommandNotExecutable,
    CommandNotFound,
    EngineBug,
    EngineStopped,
    HitIsOver,
    InstructionRefused,
    MemoryFault,
    NoSuchProcess,
    NotPermitted,
    RemoteCallFailed,
    SymbolNotFound,
    UnreadableElf,
    UnsupportedTracee,
    UprobesError,
    UsageError,
)
from ptrace_uprobes.fetching.value import FAULT, Value
from ptrace_uprobes.probe import Hit, Probe, SiteCount
from ptrace_uprobes.unwind import Frame, Stack

__all__ = [
    "FAULT",
    "AlreadyTraced",
    "BadAddress",
    "BadFilter",
    "BadSpec",
    "CommandNotExecutable",
    "CommandNotFound",
    "Engine",
    "EngineBug",
    "EngineStopped",
    "Frame",
    "Hit",
    "HitIsOver",
    "InstructionRefused",
    "MemoryFault",
    "NoSuchProcess",
    "NotPermitted",
    "Probe",
    "RemoteCallFailed",
    "Result",
    "SiteCount",
    "SitePlan",
    "Stack",
    "SymbolNotFound",
    "UnreadableElf",
    "UnsupportedTracee",
    "UprobesError",
    "UsageError",
    "Value",
    "__version__",
    "attach",
    "launch",
]

__version__ = "0.1.0"
