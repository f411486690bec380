"""What a compiler writes into a USDT marker is understood, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.definition.fetcharg import (
    Dereference,
    FileMemory,
    Immediate,
    Operand,
    Register,
    Source,
    Sum,
)
from ptrace_uprobes.symbols.marker_operands import parse_operand

_VARIABLES = {"counter": 0x100, "a.b": 0x200}


def _parse(text: str) -> Operand | str:
    return parse_operand(text, 8, _VARIABLES.get)


@pytest.mark.parametrize(
    ("text", "source", "bits", "is_signed"),
    [
        ("8@%rdx", Register("dx"), 64, False),
        ("-4@%edi", Register("di"), 32, True),
        ("-2@%r9w", Register("r9"), 16, True),
        ("1@%sil", Register("si"), 8, False),
        ("8@%eax", Register("ax"), 32, False),
        ("%rbp", Register("bp"), 64, False),
        ("-4@$-7", Immediate(-7), 32, True),
        ("8@$0x10", Immediate(16), 64, False),
        ("8@(%rsp)", Dereference(Register("sp"), 0), 64, False),
        ("-4@-20(%rbp)", Dereference(Register("bp"), -20), 32, True),
        ("4@8(%rax,%rbx)", Dereference(Sum(Register("ax"), Register("bx"), 1), 8), 32, False),
        ("4@(%r8,%r12,4)", Dereference(Sum(Register("r8"), Register("r12"), 4), 0), 32, False),
        ("4@0(,%rbx,8)", Dereference(Sum(None, Register("bx"), 8), 0), 32, False),
        ("4@counter(%rip)", FileMemory(0x100), 32, False),
        ("4@8+counter(%rip)", FileMemory(0x108), 32, False),
        ("4@counter+8-4(%rip)", FileMemory(0x104), 32, False),
        ("4@4+a.b@GOTOFF(%ebx)", FileMemory(0x204), 32, False),
        ("4@counter", FileMemory(0x100), 32, False),
    ],
)
def test_operands_of_every_kind(text: str, source: Source, bits: int, is_signed: bool) -> None:
    assert _parse(text) == Operand(source, bits, is_signed)


def test_the_upper_half_of_a_word_is_shifted_down() -> None:
    assert _parse("-1@%ch") == Operand(Register("cx"), 8, True, 8)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "8@",
            "3@%rax",
            "8@%xmm0",
            "8f@%xmm0",
            "8@%foo",
            "4@unknown(%rip)",
            "4@counter(%rax)",
        ),
        *(
            "8@8(%rax",
            "8@8(%al)",
            "8@8()",
            "8@8(%rip)",
            "8@%fs:8(%rax)",
            "8@(%rax,%foo)",
            "8@(%foo,%rax)",
        ),
        *("8@$sym", "4@(%rax,%rbx,3)", "4@%rax%rbx", "8@%ds:(%esi)"),
    ],
)
def test_what_is_not_understood_stays_text(text: str) -> None:
    assert _parse(text) == text


@given(st.text(alphabet="-+@%$(),.0123456789abcdrsx GOTF", max_size=24))
def test_any_text_is_an_operand_or_stays(text: str) -> None:
    found = _parse(text)
    assert found == text or isinstance(found, Operand)
