"""What a figure is worth depends on where it was taken."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["cpus", "describe", "facts"]

_CPU = Path("/sys/devices/system/cpu")


def cpus() -> list[int]:
    """The CPUs that we may run on."""
    return sorted(os.sched_getaffinity(0))


def facts() -> dict[str, object]:
    """Machine, kernel and interpreter; `unknown` where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    virtual = " hypervisor" in f" {fields.get('flags', '')}"
    return {
        "processor": fields.get("model name", "unknown"),
        "cpus": len(cpus()),
        "virtual": "a virtual machine" if virtual else "no virtual machine",
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "governor": _read(_CPU / "cpu0/cpufreq/scaling_governor"),
        "mitigations": {
            entry.name: _read(entry) for entry in sorted((_CPU / "vulnerabilities").glob("*"))
        },
        "load": round(os.getloadavg()[0], 2),
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
    }


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return "unknown"


def describe() -> str:
    """The same in a few lines."""
    known = facts()
    return (
        f"machine: {known['processor']}, {known['cpus']} CPUs, {known['virtual']}\n"
        f"kernel:  {known['kernel']}\n"
        f"python:  {known['python']}\n"
        f"load:    {known['load']} (the figures are worth less, the more else runs)"
    )
