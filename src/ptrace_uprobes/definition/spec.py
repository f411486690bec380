"""A probe's SPEC, parsed: where in which module.

    [MODULE:]SYMBOL[@VERSION][+OFFSET]      malloc   libc:malloc   ./prog:main+0x4
    [MODULE:]GLOB[@VERSION]                 libc:mem*   libc:memcpy@*
    0xADDRESS                               a virtual address of the process
    MODULE:0xADDRESS                        an address as the module's own file states it

Parsing looks at nothing but the text: whether such a module or symbol exists is asked
later, and again whenever a library is loaded.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from ptrace_uprobes.errors import BadSpec

__all__ = ["Spec", "parse_spec"]

_GLOB_CHARACTERS = frozenset("*?[")
_ADDRESS = re.compile(r"0[xX]([0-9a-fA-F]*)")
_OFFSET = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19}")
_FOREIGN_PREFIX = re.compile(r"(uprobe|uretprobe|usdt)(?=:.*:)|[pr][0-9]*(?=(:\S*)?\s+\S)")
_FETCHARG = re.compile(r"(?<=\S)\s+(?:\w+=)?[%$@+-]")
# What no symbol that a linker writes contains, less what a glob's set may: C++ names are
# mangled in symbol tables, and their demangled form is not understood yet.
_NEVER_IN_A_NAME = re.compile(r"[\s:/()<>{},;=\"'`|&\\\x00-\x1f\x7f]")
_LARGEST_ADDRESS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Spec:
    """Where a probe is wanted. Either `name` or `address` is set."""

    text: str
    """As the user gave it."""
    module: str | None
    """A path or a library's short name; None: the main program, then every module."""
    name: str | None
    """A symbol or a glob, without its version."""
    version: str | None
    """A symbol version or a glob, `GLIBC_2.14` of `memcpy@GLIBC_2.14`."""
    offset: int
    """Bytes past the symbol."""
    address: int | None
    """Virtual when `module` is None, else as the module's file states it."""

    @property
    def is_glob(self) -> bool:
        return not _GLOB_CHARACTERS.isdisjoint((self.name or "") + (self.version or ""))

    @property
    def place(self) -> str:
        """The text after `MODULE:`."""
        if self.address is not None:
            return f"{self.address:#x}"
        version = f"@{self.version}" if self.version is not None else ""
        offset = f"+{self.offset:#x}" if self.offset else ""
        return f"{self.name}{version}{offset}"


def parse_spec(text: str) -> Spec:
    """The SPEC that `text` is; raises `BadSpec` with the position of what is wrong."""
    if not text.strip():
        raise BadSpec(text, 0, "it is empty")
    if (nul := text.find("\0")) >= 0:
        raise BadSpec(text, nul, "it holds a NUL character")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadSpec(text, error.start, "it is not text") from error
    if foreign := _FOREIGN_PREFIX.match(text):
        raise BadSpec(text, 0, f"{foreign.group()!r} definitions are not supported yet")
    body = text.rstrip()
    module, start = _split_module(text, body)
    place = body[start:]
    if not place:
        raise BadSpec(text, start, "a symbol or an address is missing here")
    if address := _ADDRESS.match(place):
        return Spec(text, module, None, None, 0, _parse_address(text, start, place, address))
    if place.isdecimal():
        if module is not None:
            raise BadSpec(text, start, "source lines are not supported yet")
        raise BadSpec(text, start, "write an address in hexadecimal, as 0x401234")
    return _parse_symbol(text, module, start, place)


def _split_module(text: str, body: str) -> tuple[str | None, int]:
    """The module, and where the place begins."""
    is_path = body.startswith(("/", "."))
    if argument := _FETCHARG.search(body):
        # A path may hold spaces; what stands before a fetcharg is a path only if no place
        # came before it.
        if not is_path or ":" in body[: argument.start()]:
            raise BadSpec(text, argument.start(), "fetchargs are not supported yet")
    colon = body.rfind(":")
    if colon < 0:
        return None, 0
    if colon == 0:
        raise BadSpec(text, 0, "a module's name is missing before ':'")
    if colon > 0 and body[colon - 1] == ":":
        raise BadSpec(text, colon - 1, "demangled C++ names are not supported yet")
    return body[:colon], colon + 1


def _parse_address(text: str, start: int, place: str, match: re.Match[str]) -> int:
    digits = match.group(1)
    if match.end() != len(place):
        where = start + match.end()
        if place[match.end()] == "%":
            raise BadSpec(text, where, "return probes are not supported yet")
        raise BadSpec(text, where, "an address is 0x and hexadecimal digits, nothing more")
    if not digits:
        raise BadSpec(text, start + 2, "hexadecimal digits are missing after 0x")
    address = int(digits, 16)
    if address > _LARGEST_ADDRESS:
        raise BadSpec(text, start, "an address has at most 64 bits")
    return address


def _parse_symbol(text: str, module: str | None, start: int, place: str) -> Spec:
    percent = place.find("%")
    if percent >= 0:
        what = place[percent:]
        why = (
            "return probes are not supported yet"
            if what == "%return"
            else f"{what!r} is not understood; nothing follows a symbol but @VERSION and +OFFSET"
        )
        raise BadSpec(text, start + percent, why)
    symbol, plus, offset_text = place.partition("+")
    offset = 0
    if plus:
        if not _OFFSET.fullmatch(offset_text):
            raise BadSpec(text, start + len(symbol) + 1, "an offset is a number, as +0x4 or +4")
        offset = int(offset_text, 0) if offset_text[1:2] in ("x", "X") else int(offset_text)
    if bad := _NEVER_IN_A_NAME.search(symbol):
        if bad.group().isspace():
            raise BadSpec(text, start + bad.start(), "fetchargs are not supported yet")
        raise BadSpec(
            text, start + bad.start(), f"{bad.group()!r} cannot be part of a symbol's name"
        )
    name, at, version = symbol.partition("@")
    version = version.removeprefix("@")
    if not name:
        raise BadSpec(text, start, "a symbol's name is missing here")
    if at and (not version or "@" in version):
        raise BadSpec(text, start + len(name), "a version is written NAME@VERSION")
    spec = Spec(text, module, name, version if at else None, offset, None)
    if spec.is_glob:
        if offset:
            raise BadSpec(text, start + len(symbol), "an offset needs one symbol, not a pattern")
        _check_glob(text, start, name)
        _check_glob(text, start + len(name) + 1, version)
    return spec


def _check_glob(text: str, start: int, pattern: str) -> None:
    try:
        re.compile(fnmatch.translate(pattern))
    except re.error as error:  # such as [z-a], before Python 3.11
        raise BadSpec(text, start, f"a pattern that cannot match: {error}") from error
