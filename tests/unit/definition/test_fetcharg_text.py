"""A fetcharg is taken apart as the kernel does it, or refused at the character that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.definition.fetcharg import (
    Argument,
    Comm,
    Dereference,
    FetchArg,
    FetchType,
    FileMemory,
    Immediate,
    ImmediateString,
    Kind,
    Memory,
    Register,
    ReturnValue,
    Source,
    StackAddress,
    StackWord,
    VectorRegister,
)
from ptrace_uprobes.definition.fetcharg_format import format_fetcharg
from ptrace_uprobes.definition.fetcharg_text import parse_fetchargs
from ptrace_uprobes.errors import BadSpec
from tests.unit.definition.fetcharg_strategies import fetchargs

X64 = FetchType(Kind.HEXADECIMAL, 64)
STRING = FetchType(Kind.STRING, 0)


def _the(text: str, source: Source, type_: FetchType = X64) -> FetchArg:
    return FetchArg(text.lstrip("$") if isinstance(source, Argument) else "arg1", source, type_)


def _parse(text: str, *, is_return: bool = False) -> tuple[FetchArg, ...]:
    return parse_fetchargs(text, 0, len(text), is_return=is_return)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("%di", Register("di")),
        ("%rdi", Register("di")),
        ("%orig_ax", Register("orig_ax")),
        ("%rflags", Register("flags")),
        ("%r15", Register("r15")),
        ("arg0", Argument(0)),
        ("arg12", Argument(12)),
        ("$arg1", Argument(0)),
        ("$stack", StackAddress()),
        ("$stack7", StackWord(7)),
        ("@0x10", Memory(16)),
        ("@010", Memory(8)),
        ("@10", Memory(10)),
        ("@+0x10", FileMemory(16)),
        ("\\42", Immediate(42)),
        ("\\+42", Immediate(42)),
        ("\\-1", Immediate(-1)),
        ("\\0xffffffffffffffff", Immediate((1 << 64) - 1)),
        ("+0(%di)", Dereference(Register("di"), 0)),
        ("-0x10(%di)", Dereference(Register("di"), -16)),
        ("+u8(%di)", Dereference(Register("di"), 8, user=True)),
        ("-u010(%di)", Dereference(Register("di"), -8, user=True)),
        ("+1(+2(@3))", Dereference(Dereference(Memory(3), 2), 1)),
    ],
)
def test_every_source_is_understood(text: str, source: Source) -> None:
    assert _parse(text) == (_the(text, source),)


@pytest.mark.parametrize("text", ["%edi", "%edi:x32", "%esp", "+4(%esp):u64", "%eip:s8"])
def test_an_i386_register_is_the_lower_half_of_the_other(text: str) -> None:
    narrow = _parse(text)
    wide = _parse(text.replace("%e", "%") + ("" if ":" in text else ":x32"))
    assert narrow == wide


def test_an_i386_register_has_no_more_than_32_bits() -> None:
    with pytest.raises(BadSpec, match="32 bits"):
        _parse("%edi:u64")


@pytest.mark.parametrize("text", ["$comm", "$COMM", "$comm:string"])
def test_the_name_of_the_thread_is_a_string(text: str) -> None:
    assert _parse(text) == (FetchArg("arg1", Comm(), STRING),)


@pytest.mark.parametrize("text", ['\\"hello"', '\\"hello":string'])
def test_a_string_may_stand_in_the_definition(text: str) -> None:
    assert _parse(text) == (FetchArg("arg1", ImmediateString("hello"), STRING),)


def test_the_value_returned_is_for_return_probes() -> None:
    assert _parse("$retval", is_return=True) == (FetchArg("arg1", ReturnValue(), X64),)


def test_a_vector_register_is_a_double_unless_said_otherwise() -> None:
    first, second = _parse("%xmm0 %xmm15:f32")
    assert first == FetchArg("arg1", VectorRegister(0), FetchType(Kind.FLOAT, 64))
    assert second == FetchArg("arg2", VectorRegister(15), FetchType(Kind.FLOAT, 32))


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("u8", FetchType(Kind.UNSIGNED, 8)),
        ("s16", FetchType(Kind.SIGNED, 16)),
        ("x32", FetchType(Kind.HEXADECIMAL, 32)),
        ("u64", FetchType(Kind.UNSIGNED, 64)),
        ("f32", FetchType(Kind.FLOAT, 32)),
        ("char", FetchType(Kind.CHARACTER, 8)),
        ("string", STRING),
        ("ustring", FetchType(Kind.USER_STRING, 0)),
        ("b3@5/32", FetchType(Kind.BITFIELD, 32, 3, 5)),
        ("b0x3@010/0x20", FetchType(Kind.BITFIELD, 32, 3, 8)),
        ("u8[64]", FetchType(Kind.UNSIGNED, 8, count=64)),
        ("string[0x2]", FetchType(Kind.STRING, 0, count=2)),
        ("b1@7/8[2]", FetchType(Kind.BITFIELD, 8, 1, 7, 2)),
    ],
)
def test_every_type_is_understood(text: str, type_: FetchType) -> None:
    (fetcharg,) = _parse(f"+0(%di):{text}")
    assert fetcharg.type == type_


def test_names_are_given_or_counted() -> None:
    assert [one.name for one in _parse("%di size=%si %dx")] == ["arg1", "size", "arg3"]


@given(st.lists(st.integers(0, 63), min_size=1, max_size=6, unique=True), st.booleans())
def test_an_argument_without_a_name_is_called_as_it_was_asked_for(
    numbers: list[int], from_one: bool
) -> None:
    # A filter on arg1 must never be about another argument than the one that was written so.
    words = [f"$arg{number + 1}" if from_one else f"arg{number}" for number in numbers]
    for number, word, fetcharg in zip(numbers, words, _parse(" ".join(words)), strict=True):
        assert (fetcharg.name, fetcharg.source) == (word.lstrip("$"), Argument(number))


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("%foo", 1, "no register is called 'foo'"),
        ("%ddi", 1, "no register is called 'ddi'"),
        ("%xmm16", 1, "%xmm0 to %xmm15"),
        ("%return", 0, "without a blank"),
        ("$foo", 1, "no variable is called 'foo'"),
        ("$stackx", 6, "decimal"),
        ("$stack4294967296", 6, "32 bits"),
        ("$arg0", 4, "counts from 1"),
        ("arg64", 0, "at most 64"),
        ("$retval", 0, "PLACE%return"),
        ("@main", 1, "the kernel's own memory"),
        ("@08", 1, "64 bits"),
        ("@+x", 2, "offset in the file"),
        ("\\", 1, "number or a string"),
        ("\\18446744073709551616", 1, "number or a string"),
        ('\\"abc', 5, "ends with"),
        ("+8", 2, "'(' is missing"),
        ("+8(%di", 6, "')' is missing"),
        ("+8(%di)x", 7, "nothing but :TYPE"),
        ("+(%di)", 1, "an offset is"),
        ("+-8(%di)", 1, "an offset is"),
        ("--8(%di)", 1, "an offset is"),
        ("+9223372036854775808(%di)", 1, "64 bits"),
        ("+8()", 3, "missing"),
        ("+8(+4(%foo))", 7, "no register"),
        ("+8($comm)", 3, "no address"),
        ("+8(%xmm0)", 3, "no address"),
        ("foo", 0, "is no fetcharg"),
        ("=%di", 0, "a name is missing"),
        ("a=", 2, "missing after '='"),
        ("1a=%di", 0, "begins with a letter"),
        ("a-b=%di", 1, "'-' cannot be part"),
        ("a" * 33 + "=%di", 0, "at most 32"),
        ("common_pid=%di", 0, "kernel's own fields"),
        ("__probe_ip=%di", 0, "kernel's own fields"),
        ("a=%di a=%si", 6, "used twice"),
        ("arg2=%di %si", 9, "used twice: give this fetcharg one of its own"),
        ("arg2 %si", 5, "'arg2' is used twice: give this fetcharg one of its own"),
        ("$arg1 arg1", 6, "'arg1' is used twice: give this fetcharg one of its own"),
        ("%di:", 4, "a type is missing"),
        ("%di:u128", 4, "no type is called 'u128'"),
        ("%di:symbol", 4, "in the kernel"),
        ("%di:string", 4, "+0(%di):string"),
        ("s=%di:ustring", 6, "+0(%di):string"),
        ("%di:u8[4]", 4, "needs memory"),
        ("%di:f64", 4, "%xmm0"),
        ("a=+u0(%di):u8[4]", 3, "without the 'u'"),
        ("%xmm0:u64", 6, "f64 or f32"),
        ("$comm:u8", 6, "its type is string"),
        ("+0(%di):u8[65]", 11, "at most 64"),
        ("+0(%di):u8[0]", 11, "from 1"),
        ("+0(%di):u8[4", 12, "']' is missing"),
        ("+0(%di):u8[4]x", 13, "nothing follows"),
        ("%di:b3@5/7", 9, "8, 16, 32 or 64"),
        ("%di:b0@5/8", 5, "width"),
        ("%di:b3@/8", 7, "begins at a bit"),
        ("%di:b3@6/8", 4, "do not fit"),
        ("%di:b3@5", 4, "bWIDTH@SHIFT/BITS"),
        ('a=\\"' + "x" * 61 + '"', 65, "at most 63"),
        ("+0(" * 15 + "%di" + ")" * 15, 42, "at most 14"),
        ("+0(" * 14 + "@1" + ")" * 14, 0, "more than the kernel"),
        (" ".join(["%di"] * 129), 4 * 128, "at most 128"),
    ],
)
def test_what_is_wrong_is_said_with_its_position(text: str, position: int, why: str) -> None:
    with pytest.raises(BadSpec) as caught:
        _parse(text)
    assert (caught.value.position, why in str(caught.value)) == (position, True), caught.value
    assert "\n" not in str(caught.value)


def test_arguments_are_gone_when_the_function_returns() -> None:
    with pytest.raises(BadSpec, match="record them at entry"):
        _parse("arg0", is_return=True)


@settings(max_examples=300)
@given(data=st.data(), is_return=st.booleans())
def test_a_fetcharg_that_is_written_is_read_again(data: st.DataObject, is_return: bool) -> None:
    fetcharg = data.draw(fetchargs(is_return=is_return))
    text = format_fetcharg(fetcharg)
    assume(len(text.split("=", 1)[1]) <= 63)
    assert _parse(text, is_return=is_return) == (fetcharg,)


_pieces = st.sampled_from(
    [
        *'%$@+-\\"()[]:=/,9aé\u0663\xa0',
        *("di", "xmm0", "stack", "retval", "comm", "arg", "u8", "s64", "string", "b3@5/32"),
        *("0x1", "08", "common_pid", "symbol", " "),
    ]
)


@given(st.lists(_pieces, max_size=12).map("".join), st.booleans())
def test_any_text_is_fetchargs_or_has_a_positioned_error(text: str, is_return: bool) -> None:
    position = 0
    found: tuple[FetchArg, ...] = ()
    try:
        found = _parse(text, is_return=is_return)
    except BadSpec as error:
        position = error.position
    assert 0 <= position <= len(text)
    canonical = " ".join(map(format_fetcharg, found))
    assert _parse(canonical, is_return=is_return) == found
