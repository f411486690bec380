"""One read of memory for fetchargs that look close to one another.

A read is a system call, the dearest part of a fetcharg: fields of one structure, or words of
the stack, are read together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ptrace_uprobes.fetching.sources import Expression, Read

__all__ = ["joined_reads"]

_FARTHEST: Final = 256
"""Bytes read in one go: more than a few cache lines would cost more than it saves."""

Wanted = tuple[str, Expression]


def joined_reads(wanted: Iterable[Wanted]) -> list[str]:
    """Statements that give each variable its expression's value."""
    lines: list[str] = []
    by_base: dict[str, list[tuple[Read, Wanted]]] = {}
    for name, expression in wanted:
        if expression.guards:
            first = expression.guards[0]
            by_base.setdefault(first.base, []).append((first, (name, expression)))
        else:
            lines.append(f"{name} = {expression}")
    for members in by_base.values():
        for group in _close(members):
            lines += _together(group)
    return lines


def _close(members: list[tuple[Read, Wanted]]) -> list[list[tuple[Read, Wanted]]]:
    """Groups that one read of `_FARTHEST` bytes covers."""
    groups: list[list[tuple[Read, Wanted]]] = []
    for member in sorted(members, key=lambda member: member[0].offset):
        read = member[0]
        if groups and read.offset + read.size - groups[-1][0][0].offset <= _FARTHEST:
            groups[-1].append(member)
        else:
            groups.append([member])
    return groups


def _together(group: list[tuple[Read, Wanted]]) -> list[str]:
    separately = [f"{name} = {expression}" for _, (name, expression) in group]
    if len(group) == 1:
        return separately
    start = group[0][0].offset
    size = max(read.offset + read.size for read, _ in group) - start
    lines = [f"w = read({Read(group[0][0].base, start, size).address}, {size})"]
    lines.append(f"if len(w) == {size}:")
    for read, (name, expression) in group:
        at = read.offset - start
        lines.append(f"  d = w[{at}:{at + read.size}]")
        lines.append(f"  {name} = {replace(expression, guards=expression.guards[1:])}")
    # Some of it is not mapped: each for itself, as the kernel fetches them.
    return [*lines, "else:", *(f"  {line}" for line in separately)]
