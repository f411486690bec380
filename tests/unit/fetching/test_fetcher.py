"""Fetchargs, compiled: what each form and type records."""

from __future__ import annotations

import ast
import math
import re
import struct

import pytest
from hypothesis import given, settings
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
from ptrace_uprobes.errors import BadSpec
from ptrace_uprobes.fetching.fetcher import Fetcher, compile_fetcher
from ptrace_uprobes.fetching.layout import Layout
from ptrace_uprobes.fetching.value import FAULT, Value
from tests.unit.fetching.reference import PAGE, FakeContext, reference_value

U8, U16, U32, U64 = (FetchType(Kind.UNSIGNED, bits) for bits in (8, 16, 32, 64))
S8, S16, S32, S64 = (FetchType(Kind.SIGNED, bits) for bits in (8, 16, 32, 64))
X8, X16, X32, X64 = (FetchType(Kind.HEXADECIMAL, bits) for bits in (8, 16, 32, 64))
CHAR = FetchType(Kind.CHARACTER, 8)
STRING = FetchType(Kind.STRING, 0)
F32, F64 = FetchType(Kind.FLOAT, 32), FetchType(Kind.FLOAT, 64)
DI, SI = Register("di"), Register("si")


def fetcher(*pairs: tuple[Source, FetchType], is_return: bool = False, base: int = 0) -> Fetcher:
    arguments = [FetchArg(f"arg{n}", source, kind) for n, (source, kind) in enumerate(pairs, 1)]
    return compile_fetcher(arguments, is_return=is_return, layout=Layout(file_base=base))


def value(
    context: FakeContext, source: Source, kind: FetchType, *, is_return: bool = False
) -> Value:
    values = fetcher((source, kind), is_return=is_return).fetch(context)
    assert values is not None
    return values[0]


def text(context: FakeContext, *pairs: tuple[Source, FetchType]) -> str:
    one = fetcher(*pairs)
    values = one.fetch(context)
    assert values is not None
    return one.as_text(values)


def test_a_register_is_cut_to_its_type_and_printed_as_the_kernel_does() -> None:
    context = FakeContext({"rdi": 0xFFFFFFFFFFFFFE41})
    assert text(context, (DI, X64)) == "arg1=0xfffffffffffffe41"
    assert text(context, (DI, U64)) == "arg1=18446744073709551169"
    assert text(context, (DI, S64)) == "arg1=-447"
    assert text(context, (DI, U8), (DI, S16), (DI, X32)) == "arg1=65 arg2=-447 arg3=0xfffffe41"
    assert text(context, (DI, CHAR)) == "arg1='A'"
    assert text(context, (DI, FetchType(Kind.BITFIELD, 16, width=4, shift=8))) == "arg1=14"


def test_the_instruction_pointer_is_the_place_not_the_stale_word() -> None:
    context = FakeContext({"rip": 0xDEAD}, address=0x401234)
    assert value(context, Register("ip"), X64) == 0x401234


def test_only_the_last_dereference_has_the_types_size() -> None:
    context = FakeContext({"rsi": 0x1000})
    context.write(0x1010, struct.pack("<Q", 0x2000))
    context.write(0x2000 - 4, b"\x01\x02\x03\x84")
    nested = Dereference(Dereference(SI, 16), -1)
    assert value(context, nested, S8) == -124
    assert context.reads == [(0x1010, 8), (0x1FFF, 1)]


def test_addresses_wrap_at_64_bits() -> None:
    context = FakeContext({"rdi": 2**64 - 8})
    context.write(0x1000, b"\x07")
    assert value(context, Dereference(DI, 0x1008), U8) == 7


def test_stack_words_and_the_arguments_beyond_six() -> None:
    context = FakeContext({"rsp": 0x7000, "rdi": 10, "r9": 15})
    context.write(0x7000, struct.pack("<4Q", 0xAAAA, 16, 17, 2**64 - 1))
    assert value(context, StackAddress(), X64) == 0x7000
    assert value(context, StackWord(0), X64) == 0xAAAA
    assert value(context, StackWord(3), S8) == -1
    assert [value(context, Argument(n), U64) for n in (0, 5, 6, 7)] == [10, 15, 16, 17]


def test_a_return_value_is_the_result_register() -> None:
    assert value(FakeContext({"rax": 2**64 - 1}), ReturnValue(), S32, is_return=True) == -1


def test_immediates_comm_and_immediate_strings() -> None:
    context = FakeContext(name=b"a b\xff")
    pairs = ((Immediate(-1), U16), (Comm(), STRING), (ImmediateString('x"y'), STRING))
    assert text(context, *pairs) == 'arg1=65535 arg2="a b\udcff" arg3="x\\"y"'
    assert not fetcher(*pairs).needs_registers


def test_memory_at_an_address_and_at_an_offset_in_the_file() -> None:
    context = FakeContext()
    context.write(0x403010, b"\x12\x34")
    assert value(context, Memory(0x403010), X16) == 0x3412
    arguments = [FetchArg("a", FileMemory(0x3010), X16)]
    for base, expected in ((0x400000, (0x3412,)), (None, (FAULT,))):
        placed = compile_fetcher(arguments, is_return=False, layout=Layout(file_base=base))
        assert placed.fetch(context) == expected
    mapped = compile_fetcher(
        arguments, is_return=False, layout=Layout(mapped_at=lambda offset: offset + 0x400000)
    )
    assert mapped.fetch(context) == (0x3412,)


_QUOTED = re.compile(r"""arg\d=\{?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\}?(?: |$)""", re.DOTALL)


@given(st.lists(st.text("ab\"'\\ =,{}\n", max_size=8), min_size=1, max_size=3))
def test_what_is_quoted_can_be_told_from_what_follows_it(strings: list[str]) -> None:
    # GIVEN strings that may hold quotes
    pairs = [(ImmediateString(string), STRING) for string in strings]
    # WHEN they are written as text
    line = text(FakeContext(), *pairs)
    # THEN a parser of quoted words gets them back
    found = [ast.literal_eval(word.replace("\n", "\\n")) for word in _QUOTED.findall(line)]
    assert found == strings


@pytest.mark.parametrize(
    ("code", "shown"), [(0x27, "\\'"), (0x5C, "\\\\"), (0x22, '"'), (0x61, "a")]
)
def test_a_character_in_quotes_is_told_from_them(code: int, shown: str) -> None:
    assert text(FakeContext(), (Immediate(code), CHAR)) == f"arg1='{shown}'"


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 4094, 4095])
def test_a_string_ends_at_its_nul(length: int) -> None:
    context = FakeContext({"rdi": 0x1234})
    context.write(0x1234, b"s" * length + b"\0tail")
    assert value(context, Dereference(DI, 0), STRING) == "s" * length


@pytest.mark.parametrize("length", [4096, 5000])
def test_a_string_longer_than_the_kernels_longest_faults(length: int) -> None:
    context = FakeContext({"rdi": 0x1234})
    context.write(0x1234, b"s" * length + b"\0")
    assert value(context, Dereference(DI, 0), STRING) is FAULT


@pytest.mark.parametrize("before_the_end", [1, 100, 256, 300])
def test_a_string_that_runs_into_unmapped_memory_faults(before_the_end: int) -> None:
    context = FakeContext({"rdi": 2 * PAGE - before_the_end})
    context.write(PAGE, b"z" * PAGE)
    assert value(context, Dereference(DI, 0), STRING) is FAULT


def test_arrays_and_arrays_of_strings() -> None:
    context = FakeContext({"rdi": 0x1000})
    context.write(0x1000, struct.pack("<2iQQQ", -1, 2, 0x2000, 8, 0x2004))
    context.write(0x2000, b"one\0two\0")
    pairs = (
        (Dereference(DI, 0), FetchType(Kind.SIGNED, 32, count=2)),
        (Dereference(DI, 8), FetchType(Kind.STRING, 0, count=3)),
        (Dereference(DI, 8), FetchType(Kind.BITFIELD, 8, width=4, shift=4, count=2)),
        (Memory(0x2000), FetchType(Kind.CHARACTER, 8, count=3)),
    )
    expected = """arg1={-1,2} arg2={"one",(fault),"two"} arg3={0,2} arg4={'o','n','e'}"""
    assert text(context, *pairs) == expected


def test_an_array_with_a_hole_has_faults_where_the_hole_is() -> None:
    context = FakeContext()
    context.write(PAGE - 4, b"\x01\0\x02\0")
    context.write(2 * PAGE, b"\x03\0")
    count = 2 + PAGE // 2 + 1
    values = value(context, Memory(PAGE - 4), FetchType(Kind.UNSIGNED, 16, count=count))
    assert values == (1, 2, *(FAULT,) * (PAGE // 2), 3)


def test_a_fault_is_recorded_as_one_and_the_others_are_kept() -> None:
    context = FakeContext({"rdi": 8, "rsi": 0x1000})
    context.write(0x1000, b"x\0")
    pairs = (
        (Dereference(DI, 0), U32),
        (Dereference(SI, 0), STRING),
        (Dereference(Dereference(DI, 0), 0), FetchType(Kind.UNSIGNED, 8, count=2)),
        (Dereference(DI, 0), STRING),
        (Dereference(DI, 0), CHAR),
    )
    one = fetcher(*pairs)
    values = one.fetch(context)
    assert values == (FAULT, "x", (FAULT, FAULT), FAULT, FAULT)
    assert (
        one.as_text(values)
        == 'arg1=(fault) arg2="x" arg3={(fault),(fault)} arg4=(fault) arg5=(fault)'
    )
    assert one.as_json(values) == {
        "arg1": None,
        "arg2": "x",
        "arg3": [None, None],
        "arg4": None,
        "arg5": None,
    }
    assert one.as_dict(values)["arg1"] is FAULT
    assert str(FAULT) == "(fault)"
    assert not FAULT


def test_fields_of_one_structure_are_read_together() -> None:
    context = FakeContext({"rdi": 0x1008, "rsp": 0x1800})
    context.write(0x1000, struct.pack("<QiIQ", 5, -6, 7, 0x2000))
    context.write(0x2000, b"x\0")
    context.write(0x1800, struct.pack("<2Q", 8, 9))
    one = fetcher(
        (Dereference(DI, 4), U32),
        (StackWord(1), U8),
        (Dereference(DI, -8), X64),
        (Dereference(Dereference(DI, 8), 0), STRING),
        (Dereference(DI, 0), S32),
        (StackWord(0), S64),
        (Dereference(DI, 0x400), U8),
    )
    assert one.fetch(context) == (7, 9, 5, "x", -6, 8, 0)
    assert context.reads == [(0x1000, 24), (0x2000, 256), (0x1408, 1), (0x1800, 16)]


def test_fields_are_read_apart_where_some_of_them_are_not_mapped() -> None:
    context = FakeContext({"rdi": 2 * PAGE - 4})
    context.write(PAGE, b"\x07" * PAGE)
    pairs = ((Dereference(DI, 0), X32), (Dereference(DI, 4), X32), (Dereference(DI, 2), X32))
    assert text(context, *pairs) == "arg1=0x7070707 arg2=(fault) arg3=(fault)"


def test_floats_come_from_vector_registers_and_memory() -> None:
    context = FakeContext({"rdi": 0x1000}, vectors={3: struct.pack("<d", 0.1) + bytes(8)})
    context.write(0x1000, struct.pack("<f", -2.5))
    pairs = ((VectorRegister(3), F64), (Dereference(DI, 0), F32), (VectorRegister(3), X32))
    assert text(context, *pairs) == "arg1=0.1 arg2=-2.5 arg3=0x9999999a"
    context.vectors[3] = struct.pack("<d", math.nan) + bytes(8)
    one = fetcher((VectorRegister(3), F64))
    values = one.fetch(context)
    assert values is not None
    assert one.as_json(values) == {"arg1": "nan"}


def test_dicts_and_json_have_values_by_name() -> None:
    context = FakeContext({"rdi": 0x41})
    one = fetcher((DI, X8), (DI, U8), (DI, CHAR), (Comm(), STRING))
    values = one.fetch(context)
    assert values == (0x41, 0x41, 0x41, "prog")
    assert one.as_dict(values) == {"arg1": 0x41, "arg2": 0x41, "arg3": "A", "arg4": "prog"}
    assert one.as_json(values) == {"arg1": "0x41", "arg2": 0x41, "arg3": "A", "arg4": "prog"}
    assert one.names == ("arg1", "arg2", "arg3", "arg4")


def test_no_fetchargs_are_no_text() -> None:
    one = fetcher()
    assert one.fetch(FakeContext()) == ()
    assert one.as_text(()) == ""


def test_names_and_strings_never_become_code() -> None:
    hostile = '"""); import os; os._exit(3) #%s{0}\n'
    context = FakeContext({"rdi": 1})
    one = compile_fetcher(
        [FetchArg(hostile, DI, U8), FetchArg("s", ImmediateString(hostile), STRING)],
        is_return=False,
        layout=Layout(),
    )
    values = one.fetch(context)
    assert values == (1, hostile)
    shown = hostile.replace('"', '\\"')
    assert one.as_text(values) == f'{hostile}=1 s="{shown}"'


@pytest.mark.parametrize(
    ("source", "kind", "is_return", "why"),
    [
        (ReturnValue(), X64, False, "return probes"),
        (Argument(0), X64, True, "entry"),
        (DI, STRING, False, "address"),
        (DI, FetchType(Kind.UNSIGNED, 8, count=2), False, "address"),
        (Dereference(Comm(), 0), U8, False, "dereferenced"),
        (Comm(), U8, False, "type string"),
        (Register("zmm9"), U8, False, "register"),
    ],
)
def test_what_a_probe_cannot_record_is_refused(
    source: Source, kind: FetchType, is_return: bool, why: str
) -> None:
    with pytest.raises(BadSpec, match=why):
        fetcher((source, kind), is_return=is_return)


def test_dereferences_nested_too_deeply_are_refused() -> None:
    source: Source = DI
    for _ in range(40):
        source = Dereference(source, 0)
    with pytest.raises(BadSpec, match="nested"):
        fetcher((source, U8))


_BASES = st.sampled_from((0x1000, 0x1FF0, 0x1FFD, 0x2F00, 0x8000, 2**64 - 16, 0))
_NUMERIC = st.sampled_from((U8, U16, U32, U64, S8, S16, S32, S64, X8, X16, X32, X64, CHAR)) | (
    st.sampled_from((8, 16, 32, 64)).flatmap(
        lambda bits: st.integers(1, bits).flatmap(
            lambda width: st.builds(
                FetchType, st.just(Kind.BITFIELD), st.just(bits), st.just(width),
                st.integers(0, bits - width),
            )
        )
    )
)  # fmt: skip
_WORDS = st.recursive(
    st.sampled_from((DI, SI, Register("r15"), StackAddress(), Register("ip")))
    | st.builds(StackWord, st.integers(0, 40))
    | st.builds(Argument, st.integers(0, 12))
    | st.builds(Immediate, st.integers(-(2**63), 2**64 - 1))
    | st.builds(Memory, _BASES)
    | st.builds(FileMemory, st.integers(0, 0x2000)),
    lambda inner: st.builds(Dereference, inner, st.integers(-40, 40), st.booleans()),
    max_leaves=4,
)
_IN_MEMORY = (
    st.builds(Dereference, _WORDS, st.integers(-0x1008, 0x1008))
    | st.builds(Memory, _BASES)
    | st.builds(FileMemory, st.integers(0, 0x2000))
)


def _arrays(kind: FetchType) -> st.SearchStrategy[FetchType]:
    return st.builds(
        FetchType,
        st.just(kind.kind),
        st.just(kind.bits),
        st.just(kind.width),
        st.just(kind.shift),
        st.integers(1, 64),
    )


_PAIRS = (
    st.tuples(_WORDS, _NUMERIC)
    | st.tuples(_IN_MEMORY, _NUMERIC | _NUMERIC.flatmap(_arrays))
    | st.tuples(_IN_MEMORY, st.just(STRING) | _arrays(STRING))
)


@st.composite
def contexts(draw: st.DrawFn) -> FakeContext:
    """Registers that mostly point into three pages full of such pointers, and short strings."""
    words = {
        name: draw(_BASES | st.integers(0, 2**64 - 1))
        for name in ("rdi", "rsi", "rsp", "r15", "rdx")
    }
    context = FakeContext(words)
    pattern = b"".join(
        draw(st.lists(st.builds(lambda w: struct.pack("<Q", w), _BASES), min_size=3))
    )
    pattern += draw(st.binary(max_size=11))
    for page in draw(st.sets(st.sampled_from((0x1000, 0x2000, 0x3000, 0x8000)))):
        context.memory[page] = (pattern * PAGE)[:PAGE]
    return context


@settings(max_examples=150, deadline=None)
@given(contexts(), st.lists(_PAIRS, max_size=5))
def test_compiled_fetchargs_agree_with_the_step_by_step_interpretation(
    context: FakeContext, pairs: list[tuple[Source, FetchType]]
) -> None:
    base = 0x1000
    one = fetcher(*pairs, base=base)
    values = one.fetch(context)
    expected = tuple(
        _decoded(reference_value(context, FetchArg("x", *pair), base)) for pair in pairs
    )
    assert values == expected
    assert values is not None
    printed = one.as_text(values)
    assert printed.count("(fault)") == str(values).count("FAULT")
    assert list(one.as_json(values)) == list(one.names) == list(one.as_dict(values))


def _decoded(raw: object) -> object:
    if isinstance(raw, tuple):
        return tuple(_decoded(part) for part in raw)
    return raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
