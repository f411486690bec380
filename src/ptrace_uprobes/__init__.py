"""Uprobes in user space: probe any instruction of a Linux program through ptrace."""

from __future__ import annotations

from ptrace_uprobes.engine import Engine, Result, SitePlan, attach, launch
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.probe import Hit, Probe, SiteCount

__all__ = [
    "Engine",
    "Hit",
    "Probe",
    "Result",
    "SiteCount",
    "SitePlan",
    "UprobesError",
    "__version__",
    "attach",
    "launch",
]

__version__ = "0.1.0"
