"""What a figure is worth depends on where it was taken."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["cpus", "describe"]


def cpus() -> list[int]:
    """The CPUs that we may run on."""
    return sorted(os.sched_getaffinity(0))


def describe() -> str:
    """Machine, kernel and interpreter in a few lines."""
    text = Path("/proc/cpuinfo").read_text()
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in text.splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    where = "a virtual machine" if " hypervisor" in flags else "no virtual machine"
    load = os.getloadavg()[0]
    return (
        f"machine: {model}, {len(cpus())} CPUs, {where}\n"
        f"kernel:  {platform.release()}\n"
        f"python:  {platform.python_implementation()} {platform.python_version()}\n"
        f"load:    {load:.2f} (the figures are worth less, the more else runs)"
    )
