"""What binutils' c++filt says that mangled names stand for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["demangled", "mangled_names"]


def mangled_names(path: Path, *options: str) -> list[str]:
    """The names in a symbol table of `path`, their versions cut off, that look mangled."""
    listing = subprocess.run(
        ["nm", "--no-demangle", *options, str(path)], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split()[-1].partition("@")[0] for line in listing.splitlines() if line.strip()}
    return sorted(name for name in names if name.startswith(("_Z", "_R", "_GLOBAL_")))


def demangled(names: Sequence[str]) -> list[str]:
    """Each of `names` as c++filt prints it without implementation details."""
    if shutil.which("c++filt") is None:
        pytest.skip("c++filt is not installed")
    answers = subprocess.run(
        ["c++filt", "--no-verbose"],
        input="".join(f"{name}\n" for name in names),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert len(answers) == len(names)
    return answers
