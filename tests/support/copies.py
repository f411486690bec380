"""Private copies of programs and libraries, so that only our runs execute their inodes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["PrivateCopy", "libraries_of", "private_copy", "real_program"]


@dataclass(frozen=True, slots=True)
class PrivateCopy:
    """A program and copies of its libraries, with the environment that makes it use them."""

    program: Path
    libraries: Mapping[str, Path]
    environment: Mapping[str, str]


def real_program(name: str) -> Path:
    """The ELF file behind a command (not a wrapper script); skips the test if there is none."""
    places = [Path(folder) / name for folder in ("/usr/bin", "/bin", "/usr/local/bin")]
    if found := shutil.which(name):
        places.append(Path(found))
    for place in places:
        if place.exists() and place.resolve().read_bytes()[:4] == b"\x7fELF":
            return place.resolve()
    pytest.skip(f"{name} is not installed")


def libraries_of(program: Path) -> dict[str, Path]:
    """The libraries that the dynamic linker would load, by soname."""
    listing = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True)
    found = {}
    for line in listing.stdout.splitlines():
        soname, arrow, rest = line.strip().partition(" => ")
        if arrow and rest.startswith("/"):
            found[soname] = Path(rest.split(" (")[0])
    return found


def private_copy(
    program: Path, folder: Path, *library_stems: str, copy_program: bool
) -> PrivateCopy:
    """Copy `program` (or not) and those of its libraries that `library_stems` begin ("libc.")."""
    folder.mkdir(exist_ok=True)
    copied = {}
    for soname, path in libraries_of(program).items():
        if soname.startswith(library_stems):
            copied[soname] = Path(shutil.copy(path, folder / soname))
    missing = [stem for stem in library_stems if not any(name.startswith(stem) for name in copied)]
    if missing:
        pytest.skip(f"{program} does not use {', '.join(missing)} on this machine")
    if copy_program:
        program = Path(shutil.copy(program, folder / program.name))
    # What may differ from run to run is fixed: hash seeds, locale, and nothing inherited.
    environment = {
        "LD_LIBRARY_PATH": str(folder),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LC_ALL": "C",
        "HOME": str(folder),
        "PYTHONHASHSEED": "0",
        "PERL_HASH_SEED": "0",
    }
    return PrivateCopy(program, copied, environment)
