"""Filters as text: the kernel's event filter syntax (Documentation/trace/events.rst).

    size > 4096 && (comm != "sh" || !(flags & 1))

`!` binds tightest, then `&&`, then `||`; both are left-associative.
"""

from __future__ import annotations

import re

from ptrace_uprobes.definition.condition import (
    And,
    Comparison,
    Condition,
    Not,
    Operator,
    Or,
)
from ptrace_uprobes.definition.number_text import parse_number
from ptrace_uprobes.definition.quotation import quoted
from ptrace_uprobes.errors import BadFilter

__all__ = ["parse_filter"]

_MOST_COMPARISONS = 100
_DEEPEST = 32
_LONGEST_TEXT = 4096  # a page, as the kernel's
_LONGEST_STRING = 255  # MAX_FILTER_STR_VAL of include/linux/trace_events.h, less the NUL

_BLANKS = re.compile(r"[ \t\n\v\f\r]*")
_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATORS: tuple[Operator, ...] = ("==", "!=", "<=", ">=", "<", ">", "&", "~")
_NUMBER = re.compile(r"-?[0-9][A-Za-z0-9_.]*(?:(?<=[eE])[-+][0-9]+)?")
_FLOAT = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40}(?:[eE][-+]?[0-9]{1,3})?|[eE][-+]?[0-9]{1,3})")


def parse_filter(text: str) -> Condition:
    """The condition that `text` is; raises `BadFilter` with the position of what is wrong."""
    if len(text) > _LONGEST_TEXT:
        why = f"a filter has at most {_LONGEST_TEXT} characters"
        raise BadFilter(text[:60] + "...", 60, why)
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadFilter(text, error.start, "it is not text") from error
    if (nul := text.find("\0")) >= 0:
        raise BadFilter(text, nul, "it holds a NUL character")
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._comparisons = 0
        self._skip_blanks()

    def _bad(self, why: str, position: int | None = None) -> BadFilter:
        return BadFilter(self._text, self._at if position is None else position, why)

    def _skip_blanks(self) -> None:
        match = _BLANKS.match(self._text, self._at)
        if match is not None:
            self._at = match.end()

    def _take(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        self._skip_blanks()
        return True

    def whole(self) -> Condition:
        if self._at == len(self._text):
            raise BadFilter(self._text, 0, "it is empty")
        condition = self._any_of(0)
        if self._at == len(self._text):
            return condition
        if self._text[self._at] == ")":
            raise self._bad("')' closes nothing")
        raise self._bad("'&&', '||' or the end is expected here")

    def _any_of(self, depth: int) -> Condition:
        condition = self._all_of(depth)
        while self._take("||"):
            condition = Or(condition, self._all_of(depth))
        return condition

    def _all_of(self, depth: int) -> Condition:
        condition = self._operand(depth)
        while self._take("&&"):
            condition = And(condition, self._operand(depth))
        return condition

    def _operand(self, depth: int) -> Condition:
        if depth >= _DEEPEST:
            raise self._bad(f"at most {_DEEPEST} levels of parentheses and '!'")
        if self._take("!"):
            return Not(self._operand(depth + 1))
        opened = self._at
        if self._take("("):
            condition = self._any_of(depth + 1)
            if not self._take(")"):
                if self._at < len(self._text):
                    raise self._bad("'&&', '||' or ')' is expected here")
                raise self._bad(f"')' is missing for the '(' at character {opened + 1}")
            return condition
        return self._comparison()

    def _comparison(self) -> Comparison:
        self._comparisons += 1
        if self._comparisons > _MOST_COMPARISONS:
            raise self._bad(f"a filter has at most {_MOST_COMPARISONS} comparisons")
        position = self._at
        field = _FIELD.match(self._text, self._at)
        if field is None:
            raise self._bad("the name of a field, '!' or '(' is expected here")
        self._at = field.end()
        self._skip_blanks()
        operator = next((o for o in _OPERATORS if self._text.startswith(o, self._at)), None)
        if operator is None or self._text.startswith("&&", self._at):
            raise self._bad(f"an operator is expected here: {' '.join(_OPERATORS)}")
        operator_position = self._at
        self._at += len(operator)
        self._skip_blanks()
        value_position = self._at
        value = self._value(operator)
        return Comparison(
            field.group(), operator, value, position, operator_position, value_position
        )

    def _value(self, operator: Operator) -> int | float | str:
        text, start = self._text, self._at
        if start == len(text):
            raise self._bad("a number or a string is expected here")
        if text[start] in "\"'":
            value: int | float | str = self._string(operator)
        else:
            value = self._number(operator)
        self._skip_blanks()
        return value

    def _string(self, operator: Operator) -> str:
        text, start = self._text, self._at
        if operator not in ("==", "!=", "~"):
            raise self._bad("a string is compared with ==, != or ~")
        close = text.find(text[start], start + 1)
        if close < 0:
            raise self._bad(f"the string that begins here has no closing {text[start]}")
        if close - start - 1 > _LONGEST_STRING:
            raise self._bad(f"a string has at most {_LONGEST_STRING} characters")
        self._at = close + 1
        return text[start + 1 : close]

    def _number(self, operator: Operator) -> int | float:
        text, start = self._text, self._at
        match = _NUMBER.match(text, start)
        if match is None:
            if text.startswith("CPUS{", start):
                raise self._bad("CPUS{...} is the kernel's alone; write cpu == 0 || cpu == 2")
            raise self._bad("a number or a string in quotes is expected here")
        if operator == "~":
            raise self._bad("~ compares with a pattern in quotes")
        number = match.group()
        self._at = match.end()
        value = parse_number(number, -(1 << 63), (1 << 64) - 1)
        if value is not None:
            return value
        if _FLOAT.fullmatch(number):
            return float(number)
        raise self._bad(f"{quoted(number)} is no number of 64 bits", start)
