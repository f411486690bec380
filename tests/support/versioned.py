"""A library with versions, an IFUNC, an alias and local functions."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.support.build import TARGETS, build_target

__all__ = ["versioned_library"]


@functools.cache
def versioned_library() -> Path:
    return build_target(
        "versioned.c",
        "-shared",
        "-fPIC",
        "-Wl,--build-id",
        "-Wl,-soname,libversioned.so.1",
        f"-Wl,--version-script={TARGETS / 'versioned.map'}",
        name="libversioned.so.1",
    )
