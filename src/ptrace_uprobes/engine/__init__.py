"""The event loop that drives tracees through their probes."""

from __future__ import annotations

from ptrace_uprobes.engine.api import Engine, Result, SitePlan, attach, launch

__all__ = ["Engine", "Result", "SitePlan", "attach", "launch"]
