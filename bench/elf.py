"""Addresses and file offsets of the programs that are measured, by binutils."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

__all__ = ["file_offset", "symbol_addresses"]

_LOAD = re.compile(r"^\s+LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)", re.MULTILINE)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@functools.cache
def symbol_addresses(path: Path) -> dict[str, int]:
    """All defined symbols of a program, as the file states them."""
    rows = (line.split() for line in _run("nm", "--defined-only", str(path)).splitlines())
    return {row[2]: int(row[0], 16) for row in rows if len(row) == 3}


@functools.cache
def file_offset(path: Path, address: int) -> int:
    """Where in the file stands what is loaded at `address`; raises ValueError if nothing does."""
    for match in _LOAD.finditer(_run("readelf", "-lW", str(path))):
        offset, start, size = (int(text, 16) for text in match.groups())
        if start <= address < start + size:
            return offset + address - start
    raise ValueError(f"{path} loads nothing at {address:#x}")
