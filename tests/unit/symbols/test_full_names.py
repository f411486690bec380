"""Full names of C++, Rust and Go, against c++filt."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ptrace_uprobes.symbols.full_names import fits, parts_of
from ptrace_uprobes.symbols.image import open_image


def _library() -> Path:
    compiler = shutil.which("g++") or pytest.skip("g++ is not installed")
    printed = subprocess.run(
        [compiler, "-print-file-name=libstdc++.so.6"], check=True, capture_output=True, text=True
    )
    path = Path(printed.stdout.strip()).resolve()
    return path if path.is_file() else pytest.skip("libstdc++.so.6 is not installed")


def test_every_function_of_a_library_is_found_by_the_name_that_cxxfilt_has_for_it() -> None:
    # GIVEN the functions of libstdc++, and what c++filt calls them
    filt = shutil.which("c++filt") or pytest.skip("c++filt is not installed")
    symbols = sorted({symbol.name for symbol in open_image(str(_library())).glob("_Z*")})
    assert len(symbols) > 3000
    shown = subprocess.run(
        [filt, "--no-verbose"], input="\n".join(symbols), check=True, capture_output=True, text=True
    ).stdout.split("\n")
    wrong = [
        (symbol, name)
        for symbol, name in zip(symbols, shown, strict=False)
        # THEN what is looked for first is in the symbol, and the name fits
        if not all(part in symbol.encode() for part in parts_of(name))
        or not (fits(symbol, name) or name == symbol)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("symbol", "names"),
    [
        ("_ZNK2ns1W3getEi", ["ns::W::get(int) const", "ns::W::get(int)", "ns::W::get"]),
        (
            "_ZN2ns5twiceIiEET_S1_",
            ["int ns::twice<int>(int)", "ns::twice<int>(int)", "ns::twice<int>", "ns::twice"],
        ),
        ("_ZNSt6thread4joinEv", ["std::thread::join()", "std::thread::join"]),
        ("_ZplRK1AS1_", ["operator+(A const&, A const&)", "operator+"]),
        ("_ZN1AcviEv", ["A::operator int()", "A::operator int"]),
        ("_Znwm", ["operator new(unsigned long)", "operator new"]),
        ("_ZN1AC2Ei", ["A::A(int)", "A::A"]),
        ("_ZN1r6shapes1S4area17h4ed49075e4abbb2fE", ["r::shapes::S::area"]),
        ("main.(*T).Add", ["main.(*T).Add"]),
        ("main", ["main"]),
    ],
)
def test_a_function_may_be_called_in_several_ways(symbol: str, names: list[str]) -> None:
    for name in names:
        assert fits(symbol, name), name
        assert all(part in symbol.encode() for part in parts_of(name)), name


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_ZNK2ns1W3getEi", "ns::W::get(double) const"),
        ("_ZNK2ns1W3getEi", "ns::W::ge"),
        ("_ZNK2ns1W3getEi", "W::get"),
        ("_ZN2ns5twiceIiEET_S1_", "ns::twice<long>"),
        ("_ZN1AcviEv", "int"),
        ("main.(*T).Add", "main.T.Add"),
        ("main.(*T).Add", "main.(*T)"),
    ],
)
def test_other_names_do_not_fit(symbol: str, name: str) -> None:
    assert not fits(symbol, name)
