"""Uprobes in user space: probe any instruction of a Linux program through ptrace."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptrace_uprobes.engine import Engine, Result, SitePlan, attach, launch
    from ptrace_uprobes.engine.deadly_signals import detach_on_signals
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
    "detach_on_signals",
    "launch",
]

__version__ = "0.1.0"

# The command sets what Ctrl-C does before all this is imported, which takes 0.3 s (__main__.py).
_HOMES = {
    "engine": (
        "Engine",
        "Result",
        "SitePlan",
        "attach",
        "launch",
    ),
    "engine.deadly_signals": ("detach_on_signals",),
    "fetching.value": (
        "FAULT",
        "Value",
    ),
    "probe": (
        "Hit",
        "Probe",
        "SiteCount",
    ),
    "unwind": (
        "Frame",
        "Stack",
    ),
}

_MODULES = ("errors", "utrace")

if not TYPE_CHECKING:  # or any name would be one to mypy

    def __getattr__(name: str) -> object:
        """A public name, imported when it is first asked for (PEP 562)."""
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = next((home for home, names in _HOMES.items() if name in names), "errors")
        found: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_MODULES})
