"""A filter as a Python expression.

As kernel/trace/trace_events_filter.c compares: a number is cut to the field's type before it
is compared, strings compare whole, `~` is a glob. A comparison with a field that faulted is
false, whatever the operator (the kernel compares with what its buffer happens to hold).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from ptrace_uprobes.definition.condition import And, Comparison, Condition, Not, Or
from ptrace_uprobes.definition.fetcharg import FetchArg, FetchType, Kind
from ptrace_uprobes.errors import BadFilter
from ptrace_uprobes.fetching.glob import glob_matcher
from ptrace_uprobes.fetching.sources import Expression, SourceWriter

__all__ = ["ConditionWriter"]

_DEEPEST: Final = 50
"""Parentheses in parentheses; Python's own parser takes 200."""
_ADDRESS: Final = FetchType(Kind.UNSIGNED, 64)
_NUMBER: Final = FetchType(Kind.SIGNED, 32)
_STRING: Final = FetchType(Kind.STRING, 0)
_SINGLE: Final = Struct("<f")
_STRINGS: Final = (Kind.STRING, Kind.USER_STRING)


@dataclass(frozen=True, slots=True)
class _Field:
    type: FetchType
    expression: Expression
    variable: str | None = None
    """What keeps it, if that is worth while."""


_COMMON: Final = {
    "common_pid": _Field(_NUMBER, Expression("context.tid")),
    "tid": _Field(_NUMBER, Expression("context.tid")),
    "pid": _Field(_NUMBER, Expression("context.pid")),
    "comm": _Field(_STRING, Expression("context.comm()"), "v_comm"),
    "COMM": _Field(_STRING, Expression("context.comm()"), "v_comm"),
    "cpu": _Field(_NUMBER, Expression("context.cpu()"), "v_cpu"),
    "CPU": _Field(_NUMBER, Expression("context.cpu()"), "v_cpu"),
}
_KERNEL_ONLY: Final = ("common_type", "common_flags", "common_preempt_count")
"""Fields of the kernel's own record, which nothing here corresponds to."""
_AT_ENTRY: Final = {"__probe_ip": _Field(_ADDRESS, Expression("context.address"))}
_AT_RETURN: Final = {
    "__probe_func": _Field(_ADDRESS, Expression("context.function")),
    "__probe_ret_ip": _Field(_ADDRESS, Expression("context.address")),
}


@dataclass(slots=True)
class _Outcome:
    """A written condition, and which variables are set when it holds, and when it does not."""

    text: str
    if_true: frozenset[str]
    if_false: frozenset[str]


@dataclass(slots=True)
class ConditionWriter:
    """Writes a filter's expression. Fields are fetched when a comparison needs them, once."""

    sources: SourceWriter
    fetchargs: Sequence[FetchArg]
    filter_text: str
    touched: set[str] = field(default_factory=set)
    """Variables that some comparison sets."""
    doubtful: set[str] = field(default_factory=set)
    """Those that may be set or not where they are used: they begin as None."""
    expressions: list[Expression] = field(init=False)
    """Of the fetchargs, in their order."""
    fields: dict[str, _Field] = field(init=False)

    def __post_init__(self) -> None:
        # trace_find_event_field: the event's own fields hide the common ones.
        self.fields = {**_COMMON, **(_AT_RETURN if self.sources.is_return else _AT_ENTRY)}
        self.expressions = [self.sources.fetch(argument) for argument in self.fetchargs]
        for index, argument in enumerate(self.fetchargs):
            found = _Field(argument.type, self.expressions[index], f"v{index}")
            self.fields[argument.name] = found

    def write(self, condition: Condition) -> tuple[str, frozenset[str]]:
        """The expression, and the variables that are set where it is true."""
        outcome = self._write(condition, frozenset(), 0)
        return outcome.text, outcome.if_true

    def _write(self, condition: Condition, known: frozenset[str], depth: int) -> _Outcome:
        match condition:
            case Comparison():
                return self._compare(condition, known)
            case Not(operand):
                self._check_depth(condition, depth)
                inner = self._write(operand, known, depth + 1)
                return _Outcome(f"(not {inner.text})", inner.if_false, inner.if_true)
        self._check_depth(condition, depth)
        is_and = isinstance(condition, And)
        texts, exits = [], []
        for operand in _operands(condition):
            outcome = self._write(operand, known, depth + 1)
            texts.append(outcome.text)
            known = outcome.if_true if is_and else outcome.if_false
            exits.append(outcome.if_false if is_and else outcome.if_true)
        early = frozenset.intersection(*exits)
        text = f"({(' and ' if is_and else ' or ').join(texts)})"
        return _Outcome(text, known, early) if is_and else _Outcome(text, early, known)

    def _check_depth(self, condition: Condition, depth: int) -> None:
        if depth >= _DEEPEST:
            position = _first_position(condition)
            raise BadFilter(self.filter_text, position, f"more than {_DEEPEST} levels of nesting")

    def _compare(self, comparison: Comparison, known: frozenset[str]) -> _Outcome:
        found = self.fields.get(comparison.field)
        if found is None and comparison.field in _KERNEL_ONLY:
            raise self._bad(comparison, f"{comparison.field} is of the kernel's own records")
        if found is None:
            have = ", ".join(sorted(self.fields))
            raise self._bad(comparison, f"there is no field {comparison.field!r}; there are {have}")
        if found.type.count is not None:
            raise self._bad(
                comparison, f"{comparison.field!r} is an array, which cannot be compared"
            )
        name, text = found.variable, str(found.expression)
        if name is not None:
            text = f"({name} := {text})"
            if name in known:
                text = name
            elif name in self.touched:
                self.doubtful.add(name)
                text = f"({name} if {name} is not None else {text})"
            self.touched.add(name)
            known |= {name}
        if name is not None and found.expression.may_fault:
            test = f"({text} is not FAULT and {self._test(comparison, found.type, name)})"
        else:
            test = f"({self._test(comparison, found.type, text)})"
        return _Outcome(test, known, known)

    def _test(self, comparison: Comparison, kind: FetchType, name: str) -> str:
        if kind.kind in _STRINGS:
            return self._test_string(comparison, name)
        operator, value = comparison.operator, comparison.value
        if isinstance(value, str):
            why = f"{comparison.field!r} is a number; {value!r} is a string"
            raise self._bad_value(comparison, why)
        if operator == "~":
            raise self._bad_operator(
                comparison, f"{comparison.field!r} is a number; ~ is for strings"
            )
        if kind.kind is Kind.FLOAT:
            if operator == "&":
                why = f"{comparison.field!r} has a fraction; it has no bits"
                raise self._bad_operator(comparison, why)
            return f"{name} {operator} {self.sources.constant(_rounded(value, kind.bits))}"
        if isinstance(value, float):
            raise self._bad_value(comparison, f"{comparison.field!r} is a whole number")
        number = self._cut(comparison, kind, value)
        if operator == "&":
            return f"{name} & {number} != 0"
        return f"{name} {operator} {number}"

    def _cut(self, comparison: Comparison, kind: FetchType, value: int) -> int:
        """As kstrtoll or kstrtoull read it, and then a cast to the field's type."""
        signed = kind.kind is Kind.SIGNED
        low, high = (-(1 << 63), (1 << 63) - 1) if signed else (0, (1 << 64) - 1)
        if not low <= value <= high:
            what = "a signed number of 64 bits" if signed else "an unsigned number of 64 bits"
            why = f"{comparison.field!r} compares with {what}, not {value}"
            raise self._bad_value(comparison, why)
        value &= (1 << kind.bits) - 1
        if signed and value >> kind.bits - 1:
            value -= 1 << kind.bits
        return value

    def _test_string(self, comparison: Comparison, name: str) -> str:
        operator, value = comparison.operator, comparison.value
        if not isinstance(value, str):
            raise self._bad_value(
                comparison, f"{comparison.field!r} is a string; write the value in quotes"
            )
        data = value.encode("utf-8", "surrogateescape")
        if operator in ("==", "!="):
            return f"{name} {operator} {self.sources.constant(data)}"
        if operator != "~":
            raise self._bad_operator(comparison, f"strings have ==, != and ~, not {operator}")
        # filter_parse_regex: a leading ! turns the answer round.
        negated = data.startswith(b"!")
        matcher = self.sources.constant(glob_matcher(data[negated:]))
        return f"{matcher}({name}) is {'' if negated else 'not '}None"

    def _bad(self, comparison: Comparison, why: str) -> BadFilter:
        return BadFilter(self.filter_text, comparison.position, why)

    def _bad_operator(self, comparison: Comparison, why: str) -> BadFilter:
        return BadFilter(self.filter_text, comparison.operator_position, why)

    def _bad_value(self, comparison: Comparison, why: str) -> BadFilter:
        return BadFilter(self.filter_text, comparison.value_position, why)


def _rounded(value: float, bits: int) -> float:
    """A constant as a field of so many bits has it: 0.1 is another number in 32 than in 64."""
    if bits == 64:
        return value
    try:
        rounded: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    except OverflowError:
        return value  # beyond every finite one
    return rounded


def _operands(condition: And | Or) -> list[Condition]:
    """`a && b && c`, however the tree leans, in order."""
    kind = type(condition)
    operands: list[Condition] = []
    todo: list[Condition] = [condition]
    while todo:
        node = todo.pop()
        if isinstance(node, And | Or) and type(node) is kind:
            todo += (node.right, node.left)
        else:
            operands.append(node)
    return operands


def _first_position(condition: Condition) -> int:
    while not isinstance(condition, Comparison):
        condition = condition.operand if isinstance(condition, Not) else condition.left
    return condition.position


def undecided(variables: Iterable[str]) -> str:
    """A line that begins `variables` as None."""
    return " = ".join((*sorted(variables), "None"))
