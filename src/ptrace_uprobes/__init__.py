"""Uprobes in user space: probe any instruction of a Linux program through ptrace."""

from __future__ import annotations

from ptrace_uprobes.engine import Engine, Result, SitePlan, attach, launch
from ptrace_uprobes.errors import (
    AlreadyTraced,
    BadAddress,
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
from ptrace_uprobes.probe import Hit, Probe, SiteCount

__all__ = [
    "AlreadyTraced",
    "BadAddress",
    "BadSpec",
    "CommandNotExecutable",
    "CommandNotFound",
    "Engine",
    "EngineBug",
    "EngineStopped",
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
    "SymbolNotFound",
    "UnreadableElf",
    "UnsupportedTracee",
    "UprobesError",
    "UsageError",
    "__version__",
    "attach",
    "launch",
]

__version__ = "0.1.0"
