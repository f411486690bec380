"""Filters, compiled: what they let through, and what they fetch to find out."""

from __future__ import annotations

import functools
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrace_uprobes.definition.condition import And, Comparison, Condition, Not, Operator, Or
from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.definition.fetcharg import (
    Dereference,
    FetchArg,
    FetchType,
    Kind,
    Register,
    VectorRegister,
)
from ptrace_uprobes.errors import BadFilter
from ptrace_uprobes.fetching.fetcher import compile_fetcher
from ptrace_uprobes.fetching.glob import glob_matcher
from ptrace_uprobes.fetching.layout import Layout
from ptrace_uprobes.fetching.value import Value
from tests.unit.fetching.reference import FakeContext, glob_match, matches, reference_value

DI, SI, DX = Register("di"), Register("si"), Register("dx")
FIELDS = (
    FetchArg("size", DX, FetchType(Kind.UNSIGNED, 64)),
    FetchArg("small", DX, FetchType(Kind.UNSIGNED, 8)),
    FetchArg("delta", DX, FetchType(Kind.SIGNED, 32)),
    FetchArg("word", Dereference(DI, 0), FetchType(Kind.HEXADECIMAL, 32)),
    FetchArg("text", Dereference(SI, 0), FetchType(Kind.STRING, 0)),
    FetchArg("list", Dereference(DI, 0), FetchType(Kind.UNSIGNED, 8, count=4)),
    FetchArg("real", VectorRegister(0), FetchType(Kind.FLOAT, 64)),
)
KINDS = {argument.name: argument.type for argument in FIELDS}


def context(size: int = 0, text: bytes | None = b"hello", word: int | None = 7) -> FakeContext:
    made = FakeContext({"rdx": size % 2**64, "rdi": 0x1000, "rsi": 0x2000})
    if word is not None:
        made.write(0x1000, struct.pack("<Q", word))
    if text is not None:
        made.write(0x2000, text + b"\0")
    return made


def has(field: str, operator: Operator, value: int | float | str, position: int = 0) -> Comparison:
    return Comparison(field, operator, value, position)


def fetch(
    condition: Condition, target: FakeContext, *, is_return: bool = False
) -> tuple[Value, ...] | None:
    made = compile_fetcher(FIELDS, condition, is_return=is_return, layout=Layout())
    return made.fetch(target)


def passes(condition: Condition, target: FakeContext, *, is_return: bool = False) -> bool:
    return fetch(condition, target, is_return=is_return) is not None


def test_numbers_compare_by_the_fields_sign_and_are_cut_to_its_width() -> None:
    # Each row was seen on Linux 6.18.
    assert passes(has("delta", "<", 0), context(-2))
    assert passes(has("delta", "==", 0xFFFFFFFE), context(-2))
    assert passes(has("delta", ">", 3000000000), context(-2))
    assert passes(has("small", "==", 300), context(300))
    assert not passes(has("small", "<", 300), context(300))
    assert not passes(has("small", "&", 0x100), context(300))
    assert passes(has("size", ">", 5), context(2**64 - 1))


def test_strings_compare_whole_and_by_globs() -> None:
    target = context(text=b"hello")
    for operator, value, expected in (
        ("==", "hello", True),
        ("==", "hell", False),
        ("==", "h*", False),
        ("!=", "hello", False),
        ("~", "h*", True),
        ("~", "*l?*", True),
        ("~", "h[a-e]llo", True),
        ("~", "h[!a-e]llo", False),
        ("~", "h[^a-d]llo", False),
        ("~", "!h*", False),
        ("~", "h\\*", False),
        ("~", "h[llo", False),
        ("~", "", False),
    ):
        assert passes(has("text", operator, value), target) is expected, value  # type: ignore[arg-type]  # operators of a table


def test_a_comparison_with_a_field_that_faulted_is_false() -> None:
    target = context(text=None, word=None)
    for condition in (
        has("text", "==", ""),
        has("text", "!=", "x"),
        has("text", "~", "*"),
        has("text", "~", "!x"),
        has("word", "==", 0),
        has("word", "!=", 1),
        has("word", ">=", 0),
        has("word", "&", 1),
    ):
        assert not passes(condition, target)
        assert passes(Not(condition), target)


def test_the_common_fields_of_the_kernel_and_ours() -> None:
    target = context()
    for condition in (
        has("common_pid", "==", 42),
        has("tid", "==", 42),
        has("pid", "==", 41),
        has("comm", "==", "prog"),
        has("COMM", "~", "pr?g"),
        has("cpu", "==", 3),
        has("CPU", "<", 4),
        has("__probe_ip", "==", 0x401000),
    ):
        assert passes(condition, target)
    assert passes(has("__probe_func", "==", 0x402000), target, is_return=True)
    assert passes(has("__probe_ret_ip", "==", 0x401000), target, is_return=True)


def test_the_probes_own_fields_hide_the_common_ones() -> None:
    arguments = [FetchArg("comm", DX, FetchType(Kind.UNSIGNED, 64))]
    made = compile_fetcher(arguments, has("comm", "==", 5), is_return=False, layout=Layout())
    assert made.fetch(context(5)) == (5,)


def test_floats_compare_with_floats() -> None:
    target = context()
    target.vectors[0] = struct.pack("<d", 2.5) + bytes(8)
    assert passes(has("real", ">", 2.4), target)
    assert not passes(has("real", "<", 2), target)


def test_nothing_is_fetched_that_the_filter_does_not_need() -> None:
    target = context(1)
    assert not passes(has("size", ">", 5), target)
    assert target.reads == []
    assert not passes(And(has("size", "==", 1), has("word", "==", 8)), target)
    assert [address for address, _ in target.reads] == [0x1000]


def test_what_the_filter_fetched_is_not_fetched_again() -> None:
    arguments = FIELDS[3:5]
    condition = And(has("word", "==", 7), Or(has("text", "==", "x"), has("text", "~", "h*")))
    target = context()
    made = compile_fetcher(arguments, condition, is_return=False, layout=Layout())
    assert made.fetch(target) == (7, "hello")
    assert [address for address, _ in target.reads] == [0x1000, 0x2000]


def test_a_field_that_only_one_branch_fetched_is_fetched_once() -> None:
    arguments = (FIELDS[0], FIELDS[3])
    condition = And(
        Or(has("size", "==", 1), has("word", "==", 7)),
        Or(has("size", "==", 1), has("word", ">", 0)),
    )
    made = compile_fetcher(arguments, condition, is_return=False, layout=Layout())
    for size in (1, 2):
        target = context(size)
        assert made.fetch(target) == (size, 7)
        assert len(target.reads) == 1


@pytest.mark.parametrize(
    ("text", "wrong", "why"),
    [
        ("nope == 1", "nope", "there is no field 'nope'"),
        ("__probe_func == 1", "__probe", "there is no field"),
        ("common_type == 1", "common", "common_type is of the kernel's own records"),
        ("common_flags == 1", "common", "common_flags is of the kernel's"),
        ("common_preempt_count == 1", "common", "common_preempt_count is of the kernel's"),
        ("list == 1", "list", "array"),
        ('size == "5"', '"5"', "number"),
        ('size ~ "5"', '"5"', "number"),
        ("size == 1.5", "1.5", "whole"),
        ("size == -1", "-1", "unsigned"),
        ("delta  ==  9223372036854775808", "9223", "signed"),
        ("text == 5", "5", "quotes"),
        ("text > 5", "5", "quotes"),
        ("real  & 1", "&", "bits"),
        ('real == "1"', '"1"', "is a number"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused_at_what_is_wrong_in_it(
    text: str, wrong: str, why: str
) -> None:
    text = f"size == 1 || {text}"
    with pytest.raises(BadFilter, match=why) as refusal:
        compile_fetcher(
            FIELDS, parse_filter(text), is_return=False, layout=Layout(), filter_text=text
        )
    assert refusal.value.position == text.rindex(wrong)


@pytest.mark.parametrize(
    "condition", [has("size", "~", 5), has("text", ">", "x"), has("comm", "&", "x")]
)
def test_operators_that_only_a_program_can_ask_for_are_refused(condition: Condition) -> None:
    with pytest.raises(BadFilter, match="~"):
        passes(condition, context())


SINGLE = (FetchArg("b", VectorRegister(0), FetchType(Kind.FLOAT, 32)),)


@given(
    st.floats(width=32, allow_nan=False),
    st.floats(allow_nan=False) | st.integers(-(2**63), 2**64 - 1) | st.just(0.1),
)
def test_a_short_float_compares_with_the_constant_as_it_would_hold_it(
    held: float, constant: float
) -> None:
    # GIVEN a constant that programs store in 32 bits, which round it
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", constant))
    except OverflowError:
        rounded = constant
    for field, expected in ((held, held == rounded), (rounded, True)):
        target = context()
        try:
            target.vectors[0] = struct.pack("<f", field) + bytes(12)
        except OverflowError:
            continue
        # WHEN the field is compared with it
        condition = has("b", "==", constant)
        made = compile_fetcher(SINGLE, condition, is_return=False, layout=Layout())
        # THEN it is as if both were stored so
        assert (made.fetch(target) is not None) == expected


def test_long_chains_are_taken_and_deep_nesting_is_refused() -> None:
    comparisons: list[Condition] = [has("size", "==", number) for number in range(5000)]
    leftwards = functools.reduce(Or, comparisons)
    rightwards = functools.reduce(lambda right, left: Or(left, right), comparisons)
    for chain in (leftwards, rightwards):
        assert passes(chain, context(4999))
        assert not passes(chain, context(5000))
    deep: Condition = has("size", "==", 1, 9)
    for level in range(3000):
        deep = And(deep, deep) if level % 2 else Not(deep)
    with pytest.raises(BadFilter, match="nesting") as refusal:
        passes(deep, context())
    assert refusal.value.position == 9


def test_a_hostile_glob_does_not_take_long() -> None:
    matcher = glob_matcher(b"*a" * 60 + b"b")
    began = time.process_time()
    assert not matcher(b"a" * 4095)
    assert time.process_time() - began < 2


_BYTES = st.text("ab]-!^[*?\\", max_size=8).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(_BYTES, st.text("ab]-!^[*?\\", max_size=6).map(str.encode))
def test_globs_match_what_the_kernels_do(pattern: bytes, text: bytes) -> None:
    assert bool(glob_matcher(pattern)(text)) == glob_match(pattern, text)


_NUMBERS = st.builds(
    Comparison,
    st.sampled_from(("size", "small", "word")),
    st.sampled_from(("==", "!=", "<", "<=", ">", ">=", "&")),
    st.integers(0, 10) | st.integers(0, 2**64 - 1),
    st.just(0),
)
_SIGNED = st.builds(
    Comparison,
    st.just("delta"),
    st.sampled_from(("==", "!=", "<", "<=", ">", ">=", "&")),
    st.integers(-10, 10) | st.integers(-(2**63), 2**63 - 1),
    st.just(0),
)
_TEXTS = st.builds(
    Comparison,
    st.just("text"),
    st.sampled_from(("==", "!=", "~")),
    st.sampled_from(("hello", "h*", "", "*", "!*o", "?", "x")),
    st.just(0),
)
_CONDITIONS = st.recursive(
    _NUMBERS | _SIGNED | _TEXTS,
    lambda inner: (
        st.builds(And, inner, inner) | st.builds(Or, inner, inner) | st.builds(Not, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    _CONDITIONS,
    st.integers(-5, 12) | st.integers(-(2**63), 2**63 - 1),
    st.sampled_from((None, b"", b"x", b"hello")),
    st.sampled_from((None, 0, 7, 2**32 - 1)),
)
def test_compiled_filters_agree_with_the_step_by_step_interpretation(
    condition: Condition, size: int, text: bytes | None, word: int | None
) -> None:
    target = context(size, text, word)
    raw = {argument.name: reference_value(target, argument) for argument in FIELDS}
    target.reads.clear()
    values = fetch(condition, target)
    assert (values is not None) == matches(condition, raw, KINDS)
    # Nothing is read twice, whichever way was taken.
    assert target.reads.count((0x2000, 256)) <= 1
    assert target.reads.count((0x1000, 4)) <= 2
    if values is not None:
        unfiltered = compile_fetcher(FIELDS, is_return=False, layout=Layout())
        assert values == unfiltered.fetch(target)
