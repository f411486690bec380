"""Names as programmers wrote them: C++ (Itanium ABI) and Rust (legacy and v0) demangled.

As `c++filt --no-verbose` prints them: clones are marked ("f() [clone .cold]"), hashes of Rust's
names are left out.
"""

from __future__ import annotations

import functools
from typing import Final

from ptrace_uprobes.symbols.cxx_names import demangle_cxx
from ptrace_uprobes.symbols.rust_names import demangle_rust

__all__ = ["demangle"]

_MOST_KEPT: Final = 4096


@functools.lru_cache(maxsize=_MOST_KEPT)
def demangle(name: str) -> str:
    """What a symbol's name stands for; the name itself if it is not mangled. Never raises.

    A version stays behind it: `_ZNSt6thread4joinEv@GLIBCXX_3.4.11` is
    `std::thread::join()@GLIBCXX_3.4.11`.
    """
    if name[:1] != "_" or name[1:2] not in ("Z", "R", "G"):
        return name
    mangled, at, version = name.partition("@")
    plain = demangle_rust(mangled)
    if plain is None:
        plain = demangle_cxx(mangled)
    return name if plain is None else plain + at + version
