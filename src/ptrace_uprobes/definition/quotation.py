"""Pieces of what the user typed, quoted in an error: a line that a person reads."""

from __future__ import annotations

__all__ = ["quoted"]

_LONGEST = 60


def quoted(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST else f"{text[:_LONGEST]!r}..."
