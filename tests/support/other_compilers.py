"""Targets that are not C: built once per (source, arguments, compiler), as `build.py` does."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.build import TARGETS, BuildFailed, cache_dir

__all__ = ["build_go", "build_rust", "go", "rustc"]


def _find(program: str, *folders: str) -> str:
    places = os.pathsep.join((os.environ.get("PATH", ""), *map(os.path.expanduser, folders)))
    found = shutil.which(program, path=places)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def rustc() -> str:
    return _find("rustc", "~/.cargo/bin")


def go() -> str:
    return _find("go", "/usr/local/go/bin")


def _output(command: list[str], environment: dict[str, str]) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    if result.returncode != 0:
        raise BuildFailed(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout


def _build(source: Path, command: list[str], version: str, environment: dict[str, str]) -> Path:
    digest = hashlib.sha256("\0".join((version, *command)).encode())
    digest.update(source.read_bytes())
    folder = cache_dir() / f"{source.stem}-{digest.hexdigest()[:16]}"
    built = folder / source.stem
    if not built.exists():
        folder.mkdir(exist_ok=True)
        # Built beside its place and renamed: an interrupted build is never run.
        partial = folder / f".{built.name}.{os.getpid()}"
        _output([*command, "-o", str(partial), str(source)], environment)
        partial.rename(built)
    return built


@functools.cache
def build_go(source: str) -> Path:
    """The Go program built from this file of tests/targets. No module, no network."""
    # One cache of Go's own packages, so that they are compiled once.
    environment = {"GO111MODULE": "off", "GOFLAGS": "", "GOCACHE": str(cache_dir() / "go")}
    environment["GOTOOLCHAIN"] = "local"
    version = _output([go(), "version"], environment)
    return _build(TARGETS / source, [go(), "build"], version, environment)


@functools.cache
def build_rust(source: str, mangling: str) -> Path:
    """The Rust program built from this file of tests/targets, its symbols mangled so."""
    # Which of the two schemes needs asking for has changed; this lets every compiler have both.
    environment = {"RUSTC_BOOTSTRAP": "1"}
    version = _output([rustc(), "--version"], environment)
    scheme = f"symbol-mangling-version={mangling}"
    return _build(
        TARGETS / source,
        [rustc(), "-A", "warnings", "-Z", "unstable-options", "-C", scheme],
        version,
        environment,
    )
