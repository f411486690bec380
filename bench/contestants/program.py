"""Tools that are programs of the system's own."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess

from bench.contestants.contestant import Contestant

__all__ = ["ProgramContestant", "first_line"]


@functools.cache
def first_line(*command: str) -> str:
    """Of what the command prints; where a version stands."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (result.stdout or result.stderr).strip().splitlines()
    return re.sub(r"\s+", " ", lines[0]) if lines else "unknown"


class ProgramContestant(Contestant):
    """One that is there if its program is."""

    program: str
    needs_root = False

    def missing(self) -> str | None:
        if shutil.which(self.program) is None:
            return f"{self.program} is not installed"
        if self.needs_root and os.geteuid() != 0:
            return "needs root"
        return None

    def version(self) -> str:
        return first_line(self.program, "--version")
