"""Demangled names are c++filt's, for every symbol of C++ and Rust programs and libraries."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ptrace_uprobes.symbols.demangle import demangle
from tests.support.build import build_target
from tests.support.demangler import demangled, mangled_names
from tests.support.other_compilers import build_rust


def _differences(names: list[str]) -> list[tuple[str, str, str]]:
    return [
        (name, ours, theirs)
        for name, theirs in zip(names, demangled(names), strict=True)
        if (ours := demangle(name)) != theirs
    ]


def test_every_symbol_that_the_cxx_library_exports() -> None:
    listing = subprocess.run(
        ["ldd", str(build_target("names.cc", "-std=c++17", "-lstdc++"))],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    match = re.search(r"libstdc\+\+\S* => (\S+)", listing)
    assert match is not None
    names = mangled_names(Path(match[1]), "-D")
    assert len(names) > 4000
    assert _differences(names) == []


@pytest.mark.parametrize("optimisation", ["-O0", "-O2"])
def test_every_symbol_of_a_cxx_program(optimisation: str) -> None:
    names = mangled_names(build_target("names.cc", "-std=c++17", "-lstdc++", optimisation))
    assert len(names) > 300
    assert any(demangle(name).endswith("[clone .cold]") for name in names) == (
        optimisation == "-O2"
    )
    assert _differences(names) == []


@pytest.mark.parametrize("mangling", ["legacy", "v0"])
def test_every_symbol_of_a_rust_program(mangling: str) -> None:
    names = mangled_names(build_rust("names.rs", mangling))
    assert len(names) > 500
    assert any("17h" in name for name in names) == (mangling == "legacy")
    assert sum(name.startswith("_R") for name in names) > (400 if mangling == "v0" else 0)
    assert _differences(names) == []
