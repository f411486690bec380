"""What a format of the output is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.engine import SitePlan
from ptrace_uprobes.output.summary import Summary
from ptrace_uprobes.probe import Hit

__all__ = ["Format"]


class Format(Protocol):
    """Each method gives whole lines, with their line ends."""

    def hit_formatter(self, definition: Definition) -> Callable[[Hit], str]:
        """A function for the hits of one probe, with what is constant for it worked out."""

    def plan(self, plan: SitePlan) -> str:
        """How one site's instruction is executed."""

    def summary(self, summary: Summary) -> str:
        """The end of a run."""
