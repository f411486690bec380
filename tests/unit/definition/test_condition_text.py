"""A filter is read with the kernel's precedence, or refused at the character that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrace_uprobes.definition.condition import And, Comparison, Condition, Not, Operator, Or
from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.errors import BadFilter


def _written(condition: Condition) -> str:
    """With all the parentheses that there can be."""
    match condition:
        case Comparison(field, operator, value):
            shown = f'"{value}"' if isinstance(value, str) else str(value)
            return f"{field} {operator} {shown}"
        case And(left, right):
            return f"({_written(left)} && {_written(right)})"
        case Or(left, right):
            return f"({_written(left)} || {_written(right)})"
        case Not(operand):
            return f"!({_written(operand)})"


@pytest.mark.parametrize(
    ("text", "operator", "value"),
    [
        ("a==1", "==", 1),
        ("a != 0x10", "!=", 16),
        ("a<010", "<", 8),
        ("a <=-1", "<=", -1),
        ("a\t>\n18446744073709551615", ">", (1 << 64) - 1),
        ("a>=0X1f", ">=", 31),
        ("a&1", "&", 1),
        ("a > 0.5", ">", 0.5),
        ("a < -1e3", "<", -1000.0),
        ('a == "x y"', "==", "x y"),
        ("a != 'it\"s'", "!=", 'it"s'),
        ('a ~ "x*"', "~", "x*"),
        ('a == ""', "==", ""),
        ('a=="b && c"', "==", "b && c"),
    ],
)
def test_every_operator_and_value(text: str, operator: Operator, value: object) -> None:
    assert parse_filter(text) == Comparison("a", operator, value, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a==1 && b==2 || c==3", "((a == 1 && b == 2) || c == 3)"),
        ("a==1 || b==2 && c==3", "(a == 1 || (b == 2 && c == 3))"),
        ("(a==1 || b==2) && c==3", "((a == 1 || b == 2) && c == 3)"),
        ("!a==1 && b==2", "(!(a == 1) && b == 2)"),
        ("!(a==1 && b==2)", "!((a == 1 && b == 2))"),
        ("!!a==1", "!(!(a == 1))"),
        ("a==1&&b==2&&c==3", "((a == 1 && b == 2) && c == 3)"),
        (" ( ( a & 1 ) ) ", "a & 1"),
    ],
)
def test_not_binds_tighter_than_and_and_that_tighter_than_or(text: str, meaning: str) -> None:
    assert _written(parse_filter(text)) == meaning


def test_a_comparison_knows_where_its_parts_stand() -> None:
    condition = parse_filter("!( size \t>  1)")
    assert isinstance(condition, Not)
    assert isinstance(condition.operand, Comparison)
    one = condition.operand
    assert (one.position, one.operator_position, one.value_position) == (3, 9, 12)


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("", 0, "empty"),
        ("  ", 0, "empty"),
        ("a", 1, "an operator is expected"),
        ("0", 1, "an operator is expected"),
        ("a=1", 1, "an operator is expected"),
        ("a && b==1", 2, "an operator is expected"),
        ("a.ustring==1", 1, "an operator is expected"),
        ("a===1", 3, "number or a string"),
        ("a==", 3, "number or a string"),
        ("comm == sh", 8, "in quotes"),
        ("cpu & CPUS{0-3}", 6, "write cpu == 0"),
        ("a == +1", 5, "number or a string"),
        ("a ==08", 4, "'08' is no number"),
        ("a == 0x", 5, "'0x' is no number"),
        ("a == 1x", 5, "'1x' is no number"),
        ("a == 18446744073709551616", 5, "64 bits"),
        ('a == "x', 5, "no closing"),
        ('a < "x"', 4, "==, != or ~"),
        ("a ~ 1", 4, "pattern in quotes"),
        ('a == "' + "x" * 256 + '"', 5, "at most 255"),
        ("a==1 b==1", 5, "'&&', '||' or the end"),
        ("a==1 & b==1", 5, "'&&', '||' or the end"),
        ("a==1)", 4, "closes nothing"),
        ("(a==1", 5, "'(' at character 1"),
        ("(a==1 b==1)", 6, "'&&', '||' or ')'"),
        ("()", 1, "name of a field"),
        ("a==1 &&", 7, "name of a field"),
        ("|| a==1", 0, "name of a field"),
        ('"x" == a', 0, "name of a field"),
        ("(" * 40 + "a==1" + ")" * 40, 32, "at most 32 levels"),
        ("!" * 40 + "a==1", 32, "at most 32 levels"),
        (" && ".join(["a==1"] * 101), 800, "at most 100"),
        ("a" * 5000, 60, "at most 4096"),
        ("a==1\0", 4, "NUL"),
        ("a==\ud800", 3, "not text"),
    ],
)
def test_what_is_wrong_is_said_with_its_position(text: str, position: int, why: str) -> None:
    with pytest.raises(BadFilter) as caught:
        parse_filter(text)
    assert (caught.value.position, why in str(caught.value)) == (position, True), caught.value
    assert caught.value.exit_status == 2


_comparisons = st.one_of(
    st.builds(
        Comparison,
        st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True),
        st.sampled_from(("==", "!=", "<", "<=", ">", ">=", "&")),
        st.integers(-(1 << 63), (1 << 64) - 1),
        st.just(0),
    ),
    st.builds(
        Comparison,
        st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True),
        st.sampled_from(("==", "!=", "~")),
        st.text(st.characters(exclude_characters='"\0', exclude_categories=["Cs"]), max_size=9),
        st.just(0),
    ),
)
_conditions: st.SearchStrategy[Condition] = st.recursive(
    _comparisons,
    lambda inner: st.one_of(
        st.builds(And, inner, inner), st.builds(Or, inner, inner), st.builds(Not, inner)
    ),
    max_leaves=10,
)


@given(_conditions)
def test_a_condition_that_is_written_is_read_again(condition: Condition) -> None:
    text = _written(condition)
    assert _written(parse_filter(text)) == text


_pieces = st.sampled_from(
    ["a", "==", "!=", "<", "&", "~", "&&", "||", "!", "(", ")", '"', "'", "1", "-", "0x", " ", "é"]
)


@settings(max_examples=300)
@given(st.text(max_size=60) | st.lists(_pieces, max_size=20).map("".join))
def test_any_text_is_a_condition_or_has_a_positioned_error(text: str) -> None:
    position = 0
    try:
        parse_filter(text)
    except BadFilter as error:
        position = error.position
    assert 0 <= position <= len(text)
