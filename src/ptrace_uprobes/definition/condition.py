"""A filter: the kernel's event filter (Documentation/trace/events.rst), as values."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as setting
from typing import Literal

__all__ = ["And", "Comparison", "Condition", "Not", "Operator", "Or"]

Operator = Literal["==", "!=", "<", "<=", ">", ">=", "&", "~"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`FIELD OPERATOR VALUE`."""

    field: str
    operator: Operator
    value: int | float | str
    position: int
    """Where in the text the field stands, for errors when the probe is planted."""
    operator_position: int = setting(default=0, compare=False)
    value_position: int = setting(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class And:
    left: Condition
    right: Condition


@dataclass(frozen=True, slots=True)
class Or:
    left: Condition
    right: Condition


@dataclass(frozen=True, slots=True)
class Not:
    operand: Condition


Condition = Comparison | And | Or | Not
