"""Fetchargs and definitions, made up: every one is something that the grammar can say."""

from __future__ import annotations

from hypothesis import strategies as st

from ptrace_uprobes.definition.fetch_type_text import default_type
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
from ptrace_uprobes.definition.fetcharg_text import REGISTERS, RESERVED_NAMES

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,31}", fullmatch=True).filter(
    lambda name: name not in RESERVED_NAMES
)
_bits = st.sampled_from((8, 16, 32, 64))
_numbers = st.builds(
    FetchType, st.sampled_from((Kind.UNSIGNED, Kind.SIGNED, Kind.HEXADECIMAL)), _bits
)
_characters = st.just(FetchType(Kind.CHARACTER, 8))
_strings = st.sampled_from((FetchType(Kind.STRING, 0), FetchType(Kind.USER_STRING, 0)))
_floats = st.sampled_from((FetchType(Kind.FLOAT, 32), FetchType(Kind.FLOAT, 64)))


@st.composite
def _bitfields(draw: st.DrawFn) -> FetchType:
    bits = draw(_bits)
    width = draw(st.integers(1, bits))
    return FetchType(Kind.BITFIELD, bits, width, draw(st.integers(0, bits - width)))


_in_registers = st.one_of(_numbers, _characters, _bitfields())
# Bytes that a blank, '#', ':' or '=' to the kernel or to us are left out.
_texts = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#:="), max_size=30
)


@st.composite
def _values(draw: st.DrawFn, *, is_return: bool, extensions: bool) -> Source:
    """What is no memory."""
    choices: list[st.SearchStrategy[Source]] = [
        st.builds(Register, st.sampled_from(sorted(REGISTERS))),
        st.just(StackAddress()),
        st.builds(StackWord, st.integers(0, (1 << 32) - 1)),
        st.builds(Immediate, st.integers(-(1 << 63), (1 << 64) - 1)),
    ]
    if is_return:
        choices.append(st.just(ReturnValue()))
    elif extensions:
        choices.append(st.builds(Argument, st.integers(0, 63)))
    return draw(st.one_of(choices))


@st.composite
def _memory(draw: st.DrawFn, *, is_return: bool, extensions: bool) -> Source:
    source = draw(
        st.one_of(
            st.builds(Memory, st.integers(0, (1 << 64) - 1)),
            st.builds(FileMemory, st.integers(0, (1 << 63) - 1)),
            _values(is_return=is_return, extensions=extensions).map(
                lambda value: Dereference(value, 0)
            ),
        )
    )
    for _ in range(draw(st.integers(0, 4))):
        offset = draw(st.integers(-(1 << 20), 1 << 20))
        source = Dereference(source, offset, draw(st.booleans()))
    return source


@st.composite
def fetchargs(
    draw: st.DrawFn, *, is_return: bool = False, extensions: bool = True, name: str | None = None
) -> FetchArg:
    """One fetcharg; `extensions`: also what only we have."""
    name = draw(names) if name is None else name
    form = draw(st.sampled_from(("value", "memory", "text") + ("vector",) * extensions))
    if form == "text":
        source: Source = draw(st.just(Comm()) | st.builds(ImmediateString, _texts))
        return FetchArg(name, source, default_type(source))
    if form == "vector":
        return FetchArg(name, VectorRegister(draw(st.integers(0, 15))), draw(_floats))
    if form == "value":
        value = draw(_values(is_return=is_return, extensions=extensions))
        return FetchArg(name, value, draw(_in_registers))
    source = draw(_memory(is_return=is_return, extensions=extensions))
    element = draw(st.one_of(_in_registers, _strings, *([_floats] if extensions else [])))
    count = draw(st.none() | st.integers(1, 64))
    is_text = element.kind in (Kind.STRING, Kind.USER_STRING)
    if isinstance(source, Dereference) and source.user and not is_text:
        count = None
    type_ = FetchType(element.kind, element.bits, element.width, element.shift, count)
    return FetchArg(name, source, type_)
