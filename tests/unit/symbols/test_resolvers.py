"""Resolvers are what the file has the program run as such, in every kind of program."""

from __future__ import annotations

import re
import subprocess

import pytest

from ptrace_uprobes.symbols.image import open_image
from tests.support.build import BuildFailed, build_target


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-fPIC", "-shared"),
        ("-no-pie", "-fno-pie"),
        ("-static",),
        ("-static-pie",),
        ("-m32",),
        ("-m32", "-no-pie", "-fno-pie"),
        ("-m32", "-static"),
    ],
    ids=" ".join,
)
def test_resolvers_are_found_in_each_kind_of_program(flags: tuple[str, ...]) -> None:
    try:
        program = build_target("ifunc.c", *flags)
    except BuildFailed as failure:
        pytest.skip(f"cannot be built here: {failure}")
    image = open_image(str(program))
    (resolver,) = image.lookup("resolve_chosen")
    assert image.is_resolver(resolver.address)
    assert not any(
        image.is_resolver(symbol.address)
        for name in ("main", "first_implementation", "other_implementation")
        for symbol in image.lookup(name)
    )


def test_libcs_are_those_that_readelf_shows() -> None:
    libc = _libc()
    shown = subprocess.run(
        ["readelf", "--wide", "--dyn-syms", "--relocs", libc],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    stated = {int(at, 16) for at in re.findall(r"^ *\d+: ([0-9a-f]+) +\d+ IFUNC ", shown, re.M)}
    stated |= {int(at, 16) for at in re.findall(r"R_X86_64_IRELATIV\S* +([0-9a-f]+)", shown)}
    assert len(stated) > 10
    image = open_image(libc)
    assert all(image.is_resolver(address) for address in stated)
    others = {symbol.address for symbol in image.glob_best("*") if not symbol.is_ifunc} - stated
    assert not any(image.is_resolver(address) for address in others)


def _libc() -> str:
    listed = subprocess.run(["ldd", "/bin/true"], capture_output=True, check=True, text=True).stdout
    found = re.search(r"libc\.so\.6 => (\S+)", listed)
    if found is None:
        pytest.skip("no libc.so.6 of /bin/true's")
    return found[1]
