"""A probe's SPEC, parsed: where in which module.

    [MODULE:]SYMBOL[@VERSION][+OFFSET]      malloc   libc:malloc   ./prog:main+0x4
    [MODULE:]GLOB[@VERSION]                 libc:mem*   libc:memcpy@*
    0xADDRESS                               a virtual address of the process
    MODULE:0xADDRESS                        an address as the module's own file states it
    [MODULE:]FILE:LINE                      a line of a source file, sort.c:42
    [MODULE:]FULL::NAME[+OFFSET]            ns::W::get   "ns::W::get(int) const"   main.(*T).Add

Parsing looks at nothing but the text: whether such a module or symbol exists is asked
later, and again whenever a library is loaded. What may surround a SPEC is `definition`'s.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from ptrace_uprobes.definition.quotation import quoted
from ptrace_uprobes.errors import BadSpec

__all__ = ["LARGEST_ADDRESS", "Spec", "parse_marker", "parse_place", "parse_spec", "split_module"]

_GLOB_CHARACTERS = frozenset("*?[")
_ADDRESS = re.compile(r"0[xX]([0-9a-fA-F]*)")
_OFFSET = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19}")
# What no symbol that a linker writes contains, less what a glob's set may: C++ names are
# mangled in symbol tables, and their demangled form is not understood yet.
_NEVER_IN_A_NAME = re.compile(r"[\s:/()<>{},;=\"'`|&\\\x00-\x1f\x7f]")
_FULL = re.compile(r'^"|::|\.\(\*')
_OPENING = re.compile(r'(?:(?<=:)|^)"')
"""A quotation begins where a name does; elsewhere the mark is a path's."""
_COLON = re.compile(r"(?<!:):(?!:)")
_OFFSET_BEHIND = re.compile(r"\+(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})$")
_NEVER_IN_A_FULL_NAME = re.compile(r"[\"@%\x00-\x1f\x7f]")
_NEVER_IN_A_MARKER = re.compile(_NEVER_IN_A_NAME.pattern.replace("[", "[%+@", 1))
LARGEST_ADDRESS = (1 << 64) - 1
_LONGEST_LINE_NUMBER = 9
_LONGEST_GLOB = 512  # making a regular expression of one takes quadratic time


@dataclass(frozen=True, slots=True)
class Spec:
    """Where a probe is wanted. One of `name`, `address` and `file_offset` is set."""

    text: str
    """As the user gave it."""
    module: str | None
    """A path or a library's short name; None: the main program, then every module."""
    name: str | None
    """A symbol or a glob, without its version; a marker's name, or a glob; a source file."""
    version: str | None
    """A symbol version or a glob, `GLIBC_2.14` of `memcpy@GLIBC_2.14`."""
    offset: int
    """Bytes past the symbol."""
    address: int | None
    """Virtual when `module` is None, else as the module's file states it."""
    file_offset: int | None = None
    """Where in the module's file: the kernel's notation."""
    line: int | None = None
    """A line of the source file `name`, from 1."""
    provider: str | None = None
    """Of a USDT marker: its provider's name, or a glob; empty where any will do."""
    is_full: bool = False
    """`name` is as a programmer writes it, in C++, Rust or Go."""

    @property
    def is_symbol(self) -> bool:
        """It is found in symbol tables."""
        return self.name is not None and self.line is None and self.provider is None

    @property
    def is_glob(self) -> bool:
        if self.line is not None or self.is_full:
            return False
        words = (self.name or "") + (self.version or "") + (self.provider or "")
        return not _GLOB_CHARACTERS.isdisjoint(words)

    @property
    def place(self) -> str:
        """The text after `MODULE:`."""
        if self.address is not None:
            return f"{self.address:#x}"
        if self.file_offset is not None:
            return f"{self.file_offset:#x}"
        if self.line is not None:
            return f"{self.name}:{self.line}"
        if self.provider is not None:
            return f"{self.provider}:{self.name}"
        if self.is_full:
            return f'"{self.name}"' + (f"+{self.offset:#x}" if self.offset else "")
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
    return parse_place(text, 0, len(text.rstrip()), spec_text=text)


def parse_place(text: str, begin: int, end: int, *, spec_text: str | None = None) -> Spec:
    """The SPEC in `text[begin:end]`; positions in errors are those of `text`."""
    module, start = split_module(text, begin, end)
    place = text[start:end]
    shown = text[begin:end] if spec_text is None else spec_text
    if not place:
        raise BadSpec(text, start, "a symbol or an address is missing here")
    if _FULL.search(place):
        return _parse_full_name(text, shown, module, start, place)
    if address := _ADDRESS.match(place):
        where = _parse_address(text, start, place, address)
        return Spec(shown, module, None, None, 0, where)
    if place.isdecimal():
        if module is None:
            raise BadSpec(text, start, "write an address in hexadecimal, as 0x401234")
        return _parse_line(text, shown, begin, start, place)
    return _parse_symbol(text, shown, module, start, place)


def _parse_line(text: str, shown: str, begin: int, start: int, digits: str) -> Spec:
    """`[MODULE:]FILE:LINE`, of which LINE stands at `start`."""
    module, file_start = split_module(text, begin, start - 1)
    file = text[file_start : start - 1]
    if not file or file.endswith("/"):
        raise BadSpec(text, start - 1, "a source file's name is missing before the line")
    if not digits.isascii() or len(digits) > _LONGEST_LINE_NUMBER or not int(digits):
        raise BadSpec(text, start, "a line is a number from 1 on")
    return Spec(shown, module, file, None, 0, None, line=int(digits))


def split_module(text: str, begin: int, end: int) -> tuple[str | None, int]:
    """The module of `text[begin:end]`, and where the place begins."""
    quote = next((m.start() for m in _OPENING.finditer(text[begin:end])), end - begin) + begin
    # A colon of two is a name's own, as are all in quotes.
    colons = [m.start() for m in _COLON.finditer(text, begin, quote)]
    if not colons:
        return None, begin
    colon = colons[-1]
    if colon == begin:
        raise BadSpec(text, begin, "a module's name is missing before ':'")
    return text[begin:colon], colon + 1


def _parse_full_name(text: str, shown: str, module: str | None, start: int, place: str) -> Spec:
    """A name with what no symbol of C has, or in quotes; nothing in it is a glob."""
    name, offset_text = place, ""
    if place.startswith('"'):
        close = place.find('"', 1)
        if close < 0:
            raise BadSpec(text, start + len(place), "'\"' is missing behind the name")
        name, rest = place[1:close], place[close + 1 :]
        if rest and not rest.startswith("+"):
            raise BadSpec(text, start + close + 1, "nothing but +OFFSET follows the quoted name")
        offset_text = rest[1:]
        if rest and not _OFFSET.fullmatch(offset_text):
            raise BadSpec(text, start + close + 2, "an offset is a number, as +0x4 or +4")
    elif tail := _OFFSET_BEHIND.search(place):
        name, offset_text = place[: tail.start()], tail.group(1)
    if bad := _NEVER_IN_A_FULL_NAME.search(name):
        where = start + place.index(name) + bad.start()
        raise BadSpec(text, where, f"{bad.group()!r} cannot be part of a name")
    if not name.strip(" :"):
        raise BadSpec(text, start, "a symbol's name is missing here")
    offset = int(offset_text, 0 if offset_text[1:2] in ("x", "X") else 10) if offset_text else 0
    return Spec(shown, module, name, None, offset, None, is_full=True)


def _parse_address(text: str, start: int, place: str, match: re.Match[str]) -> int:
    digits = match.group(1)
    if match.end() != len(place):
        where = start + match.end()
        raise BadSpec(text, where, "an address is 0x and hexadecimal digits, nothing more")
    if not digits:
        raise BadSpec(text, start + 2, "hexadecimal digits are missing after 0x")
    address = int(digits, 16)
    if address > LARGEST_ADDRESS:
        raise BadSpec(text, start, "an address has at most 64 bits")
    return address


def _parse_symbol(text: str, shown: str, module: str | None, start: int, place: str) -> Spec:
    percent = place.find("%")
    if percent >= 0:
        raise BadSpec(
            text,
            start + percent,
            f"{quoted(place[percent:])} is not understood; nothing follows a symbol but @VERSION, "
            "+OFFSET and, at the end, %return",
        )
    symbol, plus, offset_text = place.partition("+")
    offset = 0
    if plus:
        if not _OFFSET.fullmatch(offset_text):
            raise BadSpec(text, start + len(symbol) + 1, "an offset is a number, as +0x4 or +4")
        offset = int(offset_text, 0) if offset_text[1:2] in ("x", "X") else int(offset_text)
    if bad := _NEVER_IN_A_NAME.search(symbol):
        raise BadSpec(
            text, start + bad.start(), f"{bad.group()!r} cannot be part of a symbol's name"
        )
    name, at, version = symbol.partition("@")
    version = version.removeprefix("@")
    if not name:
        raise BadSpec(text, start, "a symbol's name is missing here")
    if at and (not version or "@" in version):
        raise BadSpec(text, start + len(name), "a version is written NAME@VERSION")
    spec = Spec(shown, module, name, version if at else None, offset, None)
    if spec.is_glob:
        if offset:
            raise BadSpec(text, start + len(symbol), "an offset needs one symbol, not a pattern")
        _check_glob(text, start, name)
        _check_glob(text, start + len(name) + 1, version)
    return spec


def parse_marker(text: str, begin: int, end: int) -> Spec:
    """The SPEC of a USDT marker, `MODULE:[PROVIDER:]NAME`, in `text[begin:end]`."""
    colon = text.rfind(":", begin, end)
    if colon < 0:
        raise BadSpec(text, end, "a marker is usdt:MODULE:[PROVIDER:]NAME")
    name, provider = text[colon + 1 : end], ""
    module_end, before = colon, text.rfind(":", begin, colon)
    if before >= 0 and "/" not in text[before:colon]:
        provider, module_end = text[before + 1 : colon], before
        _check_marker_word(text, before + 1, provider)
    module = text[begin:module_end]
    if not module:
        raise BadSpec(text, begin, "a module's name is missing before ':'")
    if not name:
        raise BadSpec(text, colon + 1, "a marker's name is missing here")
    _check_marker_word(text, colon + 1, name)
    return Spec(text[begin:end], module, name, None, 0, None, provider=provider)


def _check_marker_word(text: str, start: int, word: str) -> None:
    if bad := _NEVER_IN_A_MARKER.search(word):
        why = f"{bad.group()!r} cannot be part of a marker's name"
        if word.endswith("%return"):
            why = "a marker does not return"
        raise BadSpec(text, start + bad.start(), why)
    if not _GLOB_CHARACTERS.isdisjoint(word):
        _check_glob(text, start, word)


def _check_glob(text: str, start: int, pattern: str) -> None:
    if len(pattern) > _LONGEST_GLOB:
        why = f"a pattern has at most {_LONGEST_GLOB} characters"
        raise BadSpec(text, start + _LONGEST_GLOB, why)
    try:
        re.compile(fnmatch.translate(pattern))
    except re.error as error:  # such as [z-a], before Python 3.11
        raise BadSpec(text, start, f"a pattern that cannot match: {error}") from error
