"""What a core file says of the signal that made it, and of the thread that it came to."""

from __future__ import annotations

import resource
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Core", "dumping", "read_core"]

_PT_NOTE = 4
_NT_PRSTATUS, _NT_SIGINFO = 1, 0x53494749
# include/uapi/linux/elfcore.h: where pr_reg is in struct elf_prstatus, and its registers in the
# order of the two kinds' user_regs_struct.
_REGISTERS_AT = {64: 112, 32: 72}
_NAMES = {
    64: (
        *("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx"),
        *("si", "di", "orig_ax", "ip", "cs", "flags", "sp"),
    ),
    32: (
        *("bx", "cx", "dx", "si", "di", "bp", "ax", "ds", "es", "fs", "gs"),
        *("orig_ax", "ip", "cs", "flags", "sp"),
    ),
}


@dataclass(frozen=True, slots=True)
class Core:
    """Of the thread that died."""

    signal: int
    code: int
    """`si_code`."""
    registers: dict[str, int]


def dumping(directory: Path) -> tuple[str, ...]:
    """A wrapper for `start_target`: the program's core comes to `directory`, and its addresses are
    the same each time. Skips the test where cores go elsewhere."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|"):
        pytest.skip(f"cores go elsewhere: /proc/sys/kernel/core_pattern is {pattern!r}")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("RLIMIT_CORE allows no cores")
    programs = [shutil.which(name) for name in ("env", "prlimit", "setarch")]
    if not all(programs):
        pytest.skip("no env, prlimit or setarch")
    env, prlimit, setarch = map(str, programs)
    return env, "-C", str(directory), prlimit, "--core=unlimited", setarch, "-R"


def read_core(directory: Path) -> Core:
    """The only core file in a directory."""
    (path,) = directory.iterdir()
    data = path.read_bytes()
    path.unlink()
    bits = 32 * data[4]
    header, entry = ("<28xI10xHH", "<IIIIIIII") if bits == 32 else ("<32xQ14xHH", "<IIQQQQQQ")
    offset, size, count = struct.unpack_from(header, data)
    notes: dict[int, bytes] = {}
    for number in range(count):
        fields = struct.unpack_from(entry, data, offset + number * size)
        start, length = (fields[1], fields[4]) if bits == 32 else (fields[2], fields[5])
        if fields[0] == _PT_NOTE:
            notes = _notes(data[start : start + length])
    signal, _, code = struct.unpack_from("<3i", notes[_NT_SIGINFO])
    names = _NAMES[bits]
    kind = "I" if bits == 32 else "Q"
    values = struct.unpack_from(f"<{len(names)}{kind}", notes[_NT_PRSTATUS], _REGISTERS_AT[bits])
    return Core(signal, code, dict(zip(names, values, strict=True)))


def _notes(data: bytes) -> dict[int, bytes]:
    """The first of each kind: that of the thread that died."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        name_size, size, kind = struct.unpack_from("<3I", data, at)
        at += 12 + -(-name_size // 4) * 4
        found.setdefault(kind, data[at : at + size])
        at += -(-size // 4) * 4
    return found
