"""Tools from PyPI, each in an environment of its own below .venv: made at the first use."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

from bench.contestants.contestant import ROOT, NotMeasured

__all__ = ["installed_version", "python_with"]

_FOLDER = ROOT / ".venv" / "peers"
_INSTALL_SECONDS = 300


@functools.cache
def python_with(package: str) -> Path:
    """An interpreter that can import the package; raises `NotMeasured` if it cannot be had."""
    python = _FOLDER / package / "bin" / "python"
    if not (python.parent / "installed").exists():
        environment = {**os.environ, "PYTHON": sys.executable}
        try:
            for command in (
                # Debian's Python may have no ensurepip.
                ["sh", str(ROOT / ".ci" / "make-venv"), str(_FOLDER / package)],
                [str(python), "-m", "pip", "install", "--quiet", package],
            ):
                subprocess.run(
                    command,
                    check=True,
                    capture_output=True,
                    timeout=_INSTALL_SECONDS,
                    env=environment,
                )
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()
            why = said[-1] if said else f"exit status {error.returncode}"
            raise NotMeasured(f"{package} cannot be installed: {why}") from error
        except subprocess.TimeoutExpired as error:
            raise NotMeasured(f"{package}: the installation took too long") from error
        (python.parent / "installed").touch()
    return python


@functools.cache
def installed_version(package: str) -> str:
    show = [str(python_with(package)), "-m", "pip", "show", package]
    printed = subprocess.run(show, capture_output=True, text=True, check=False).stdout
    lines = [line for line in printed.splitlines() if line.startswith("Version: ")]
    return f"{package} {lines[0].removeprefix('Version: ')}" if lines else package
