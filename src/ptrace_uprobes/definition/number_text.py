"""Numbers as the kernel reads them: `kstrtoul` and `kstrtol` with base 0."""

from __future__ import annotations

import re

__all__ = ["format_number", "parse_number"]

# A leading 0 means octal, as in C. The bound on the length keeps int() cheap: nothing of 64
# bits is longer, save for leading zeros.
_NUMBER = re.compile(r"(-?)(?:0[xX]([0-9a-fA-F]{1,64})|(0[0-7]{0,64})|([1-9][0-9]{0,64}))")


def parse_number(text: str, lowest: int, highest: int) -> int | None:
    """The number that `text` is, whole; None if it is none or lies outside the range."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    minus, hexadecimal, octal, decimal = match.groups()
    if hexadecimal is not None:
        value = int(hexadecimal, 16)
    elif octal is not None:
        value = int(octal, 8)
    else:
        value = int(decimal, 10)
    if minus:
        value = -value
    return value if lowest <= value <= highest else None


def format_number(value: int) -> str:
    """The shorter of decimal and hexadecimal."""
    return min(str(value), hex(value), key=len)
