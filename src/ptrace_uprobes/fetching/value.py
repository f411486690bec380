"""What a fetcharg gives."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["FAULT", "Fault", "Value"]


class Fault(enum.Enum):
    """Memory that could not be read. False, and printed as the kernel prints it."""

    FAULT = "(fault)"

    def __str__(self) -> str:
        return "(fault)"

    def __repr__(self) -> str:
        return "FAULT"

    def __bool__(self) -> bool:
        return False


FAULT: Final = Fault.FAULT

Value = int | float | str | Fault | tuple[int | float | str | Fault, ...]
"""An array is a tuple; a character is its code in `values`, a string of one in `as_dict`."""
