"""Compiles test targets on demand, each once per (sources, flags, compiler).

The benchmarks share this module with the tests, and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["TARGETS", "BuildFailed", "build_target", "cache_dir", "compiler"]

TARGETS = Path(__file__).resolve().parent.parent / "targets"

_COMMON_FLAGS = ("-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-fno-omit-frame-pointer")
_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


class BuildFailed(Exception):
    """The compiler's own words about a target that does not build."""


def cache_dir() -> Path:
    """Where built targets are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(root) / "ptrace-uprobes-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache
def compiler() -> str:
    """The C compiler: $CC, or what is called gcc or cc."""
    for name in (os.environ.get("CC"), "gcc", "cc"):
        if name and (found := shutil.which(name)):
            return found
    raise BuildFailed("no C compiler: install gcc, or set CC")


@functools.cache
def _compiler_version() -> bytes:
    return subprocess.run([compiler(), "--version"], check=True, capture_output=True).stdout


def _with_includes(source: Path, seen: set[Path]) -> Iterator[bytes]:
    if source in seen:
        return
    seen.add(source)
    text = source.read_bytes()
    yield text
    for name in _INCLUDE.findall(text):
        included = source.parent / os.fsdecode(name)
        if included.exists():
            yield from _with_includes(included, seen)


@functools.cache
def build_target(source: str | Path, *flags: str, name: str | None = None) -> Path:
    """The program built from `source`, a file of tests/targets or a path, with `flags` added.

    `name` is the file name that the result must have (a library's soname, say).
    """
    path = TARGETS / source
    digest = hashlib.sha256(_compiler_version())
    digest.update("\0".join((*_COMMON_FLAGS, *flags)).encode())
    for text in _with_includes(path, set()):
        digest.update(text)
    folder = cache_dir() / f"{path.stem}-{digest.hexdigest()[:16]}"
    built = folder / (name or path.stem)
    if built.exists():
        return built
    folder.mkdir(exist_ok=True)
    # Built beside its place and renamed, so that an interrupted or a concurrent build is never run.
    partial = folder / f".{built.name}.{os.getpid()}"
    command = [compiler(), *_COMMON_FLAGS, str(path), "-o", str(partial), *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildFailed(f"{' '.join(command)}\n{result.stderr}")
    partial.rename(built)
    return built
