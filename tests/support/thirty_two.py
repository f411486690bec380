"""32-bit builds of the targets, where the compiler can make them."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.support.build import BuildFailed, build_target

__all__ = ["FIXED", "PROPOSAL", "build_32"]

FIXED = ("-fno-pie", "-no-pie")
PROPOSAL = (*FIXED, "-Wl,-Ttext-segment=0x08048000")
"""Where the 2007 proposal's programs lay: its examples are at 0x08048320."""

# What 64-bit sources name or compute otherwise.
_FOR_32 = ("-m32", "-DREG_RIP=REG_EIP", "-Wno-format", "-Wno-clobbered")


@functools.cache
def _why_not() -> str | None:
    try:
        build_target("sleeper.c", *_FOR_32)
    except BuildFailed as failure:
        return str(failure)
    return None


def build_32(source: str | Path, *flags: str, name: str | None = None) -> Path:
    """As `build_target`, 32-bit; skips the test where no such program can be built."""
    why_not = _why_not()
    if why_not is not None:
        pytest.skip(f"this compiler makes no 32-bit programs: {why_not}")
    return build_target(source, *_FOR_32, *flags, name=name)
