"""What a program says of itself may hold anything; a line of ours is one line."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """The text with what would break a line, or disturb a terminal, written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
