"""What a program says of itself may hold anything; a line of ours is one line."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """The text with what would break a line, or disturb a terminal, written as escapes."""
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # A byte that is no UTF-8 (os.fsdecode, "surrogateescape").
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
