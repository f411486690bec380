"""Symbols, file offsets and instructions, by binutils: an opinion independent of ours."""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Function", "file_offset", "functions", "instruction_addresses"]

_LOAD = re.compile(r"^\s+LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)")
_NM_LINE = re.compile(r"^([0-9a-f]+) ([0-9a-f]+) ([tTwWi]) (\S+)$")
_OBJDUMP_LINE = re.compile(r"^\s*([0-9a-f]+):\t(?:[0-9a-f]{2} )+\s*\t(\S+)")


@dataclass(frozen=True, slots=True)
class Function:
    """A sized code symbol; `address` is as the file states it."""

    name: str
    address: int
    size: int
    is_ifunc: bool


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@functools.cache
def functions(path: Path) -> dict[str, Function]:
    """The functions that .dynsym and .symtab of `path` define, by name without a version.

    Of several versions of one name the default one (`@@`) is kept.
    """
    found: dict[str, Function] = {}
    for table in ("-D", "-a"):
        listing = subprocess.run(
            ["nm", table, "-S", "--defined-only", str(path)],
            check=False,
            capture_output=True,
            text=True,
        ).stdout
        for line in listing.splitlines():
            if match := _NM_LINE.match(line):
                address, size, kind, full_name = match.groups()
                name, at, version = full_name.partition("@")
                hidden = at == "@" and not version.startswith("@")
                if name in found and hidden:
                    continue
                found[name] = Function(name, int(address, 16), int(size, 16), kind == "i")
    return found


@functools.cache
def _segments(path: Path) -> list[tuple[int, int, int]]:
    lines = _run("readelf", "-lW", str(path)).splitlines()
    return [
        (int(match[1], 16), int(match[2], 16), int(match[3], 16))
        for match in map(_LOAD.match, lines)
        if match
    ]


def file_offset(path: Path, address: int) -> int:
    """Where in the file the byte lies that is loaded at `address`."""
    for offset, start, size in _segments(path):
        if start <= address < start + size:
            return address - start + offset
    raise LookupError(f"{path} loads nothing at {address:#x}")


def instruction_addresses(path: Path, function: Function) -> list[int]:
    """The address of every instruction of `function`, by objdump."""
    listing = _run(
        "objdump",
        "-d",
        "-w",
        f"--start-address={function.address:#x}",
        f"--stop-address={function.address + function.size:#x}",
        str(path),
    )
    return [int(match[1], 16) for match in map(_OBJDUMP_LINE.match, listing.splitlines()) if match]
