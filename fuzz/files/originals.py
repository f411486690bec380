"""The true files that are damaged: of several compilers, sizes and machines."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.build import BuildFailed, build_target
from tests.support.other_compilers import build_go, build_rust
from tests.support.versioned import versioned_library

from fuzz.files.layout import Layout, layout_of
from ptrace_uprobes.addresses import FileOffset, VirtAddr
from ptrace_uprobes.linux.maps import Mapping

__all__ = ["Original", "original", "originals"]

_BIAS = 0x7F00_0000_0000
_LARGEST = 8 << 20


@dataclass(frozen=True, slots=True)
class Original:
    name: str
    data: bytes
    layout: Layout
    names: tuple[str, ...]
    """Of some functions."""
    loads: tuple[Mapping, ...]
    """How the kernel maps it."""


def original(name: str, path: Path, names: tuple[str, ...]) -> Original:
    data = path.read_bytes()
    layout = layout_of(data)
    table = layout.segments
    loads = []
    for index in range(table.count):
        if table.get(data, index, "type") == 1:
            address, offset = table.get(data, index, "address"), table.get(data, index, "offset")
            size = table.get(data, index, "file_size")
            start = _BIAS + address - address % 4096
            loads.append(
                Mapping(
                    VirtAddr(start),
                    VirtAddr(-(-(_BIAS + address + size) // 4096) * 4096),
                    "r-xp" if table.get(data, index, "flags") & 1 else "rw-p",
                    FileOffset(offset - offset % 4096),
                    "00:01",
                    1,
                    "/hostile",
                    False,
                )
            )
    return Original(name, data, layout, names, tuple(loads))


def originals(*, small: bool = False) -> Iterator[Original]:
    """Those that this machine has or can make; `small`: only those that are read in no time."""
    made: list[tuple[str, Callable[[], Path], tuple[str, ...]]] = [
        ("C library", versioned_library, ("copy", "copy_v1", "local")),
        ("C program", lambda: build_target("calls.c"), ("main", "work")),
        ("static-pie", lambda: build_target("calls.c", "-static-pie"), ("main", "malloc")),
        ("debug_frame", lambda: _separate("--only-keep-debug"), ("main", "work")),
        ("stripped", lambda: _separate("--strip-all"), ("main", "work")),
        ("compressed", lambda: build_target("stacks.c", "-gz=zlib", "-Wa,--gdwarf-cie-version=4",
                                            "-fno-asynchronous-unwind-tables"), ("main",)),
        ("i386", lambda: build_target("thirty_two.c", "-m32"), ("main", "work")),
        ("i386 libc", lambda: Path("/usr/lib32/libc.so.6"), ("malloc", "memcpy")),
        ("C++", lambda: build_target("exceptions.cpp", "-lstdc++"), ("main", "_ZSt9terminatev")),
        ("Rust", lambda: build_rust("names.rs", "v0"), ("main", "rust_panic")),
        ("Go", lambda: build_go("returns_goroutines.go"), ("main.main", "runtime.morestack")),
        ("libc", lambda: Path("/lib/x86_64-linux-gnu/libc.so.6"), ("malloc", "memcpy", "qsort")),
        ("ld.so", lambda: Path("/lib64/ld-linux-x86-64.so.2"), ("_dl_debug_state",)),
        ("libstdc++", lambda: Path("/lib/x86_64-linux-gnu/libstdc++.so.6"), ("_ZSt9terminatev",)),
        ("python", lambda: Path(sys.executable).resolve(), ("Py_Main", "PyObject_Call")),
    ]  # fmt: skip
    for name, make, names in made[:4] if small else made:
        try:
            path = make()
        except (BuildFailed, pytest.skip.Exception, FileNotFoundError):
            continue
        if path.exists() and path.stat().st_size <= _LARGEST:
            yield original(name, path, names)


def _separate(option: str) -> Path:
    import subprocess

    made = Path(tempfile.gettempdir()) / f"fuzz-files-{option.strip('-')}"
    program = build_target("stacks.c", "-O2", "-g3")
    subprocess.run(["objcopy", option, str(program), str(made)], check=True)
    return made
