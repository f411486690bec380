"""Lines of source files, `sort.c:42`, as places of code: what a file's `.debug_line` says."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols.debug_sections import debug_section, has_section
from ptrace_uprobes.symbols.headers import Headers
from ptrace_uprobes.symbols.line_program import run_program
from ptrace_uprobes.symbols.line_units import LineUnit, units_of
from ptrace_uprobes.symbols.source import Source

__all__ = ["LineAnswer", "LineTable", "has_lines"]

_SECTION: Final = ".debug_line"
_MOST_RUN: Final = 1 << 25
"""Bytes of programs that are run for one line: some ten seconds."""


def has_lines(headers: Headers) -> bool:
    """Whether the file says which source lines its code is of."""
    return has_section(headers, _SECTION)


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """Where a line's code is."""

    addresses: tuple[int, ...]
    """Where it begins, in order; several if it is reached in several ways, or was inlined."""
    files: tuple[str, ...]
    """The source files that the name fits."""
    near: tuple[int, ...]
    """Where nothing begins there: the closest lines of these files with code."""


class LineTable:
    """One file's lines. Heads of units are read once, programs when a line is asked for."""

    def __init__(self, source: Source, headers: Headers) -> None:
        self._name = source.name
        self._section = debug_section(source, headers, _SECTION)
        line_strings = debug_section(source, headers, ".debug_line_str")
        strings = debug_section(source, headers, ".debug_str")
        self._units: Sequence[LineUnit] = tuple(units_of(self._section, line_strings, strings))
        self._answers: dict[tuple[str, int], LineAnswer] = {}

    def find(self, file: str, line: int) -> LineAnswer:
        """`file` is a path, or the end of one. Raises `UnreadableElf` if it costs too much."""
        answer = self._answers.get((file, line))
        if answer is None:
            answer = self._answers[file, line] = self._find(file, line)
        return answer

    def names(self) -> set[str]:
        """The source files' names, without their folders."""
        return {posixpath.basename(path) for unit in self._units for path in unit.files.values()}

    def _find(self, file: str, line: int) -> LineAnswer:
        wanted = posixpath.normpath(file)
        base = posixpath.basename(wanted)
        left = _MOST_RUN
        files: set[str] = set()
        lines: set[int] = set()
        addresses: set[int] = set()
        for unit in self._units:
            numbers = {
                number: path
                for number, path in unit.files.items()
                if path.endswith(base) and _fits(path, wanted)
            }
            if not numbers:
                continue
            left -= unit.end - unit.start
            if left < 0:
                raise UnreadableElf(self._name, f"too much of its line table is about {file}")
            files.update(numbers.values())
            addresses.update(run_program(self._section, unit, numbers, line, lines))
        return LineAnswer(tuple(sorted(addresses)), tuple(sorted(files)), _near(lines, line))


def _fits(path: str, wanted: str) -> bool:
    path = posixpath.normpath(path)
    if path == wanted or path.endswith(f"/{wanted}"):
        return True
    return wanted.startswith("/") and not path.startswith("/") and wanted.endswith(f"/{path}")


def _near(lines: set[int], line: int) -> tuple[int, ...]:
    before = [one for one in lines if one < line]
    after = [one for one in lines if one > line]
    return (*([max(before)] if before else ()), *([min(after)] if after else ()))
