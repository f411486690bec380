"""Fetchargs as text, written: one spelling for each."""

from __future__ import annotations

from ptrace_uprobes.definition.fetch_type_text import default_type, format_type
from ptrace_uprobes.definition.fetcharg import (
    Argument,
    Comm,
    Dereference,
    FetchArg,
    FileMemory,
    Immediate,
    ImmediateString,
    Memory,
    Operand,
    Register,
    ReturnValue,
    Source,
    StackAddress,
    StackWord,
    Sum,
    VectorRegister,
)
from ptrace_uprobes.definition.number_text import format_number

__all__ = ["format_fetcharg"]


def format_fetcharg(fetcharg: FetchArg) -> str:
    """`NAME=SOURCE:TYPE`, without a type that is the default; parsing it gives an equal
    fetcharg, and what was within the bound on its length still is."""
    text = f"{fetcharg.name}={_format_source(fetcharg.source)}"
    if fetcharg.type == default_type(fetcharg.source):
        return text
    return f"{text}:{format_type(fetcharg.type)}"


def _format_source(source: Source) -> str:
    match source:
        case Register(name):
            return f"%{name}"
        case VectorRegister(number):
            return f"%xmm{number}"
        case Argument(number):
            return f"arg{number}"
        case StackAddress():
            return "$stack"
        case StackWord(number):
            return f"$stack{number}"
        case ReturnValue():
            return "$retval"
        case Comm():
            return "$comm"
        case Memory(address):
            return f"@{format_number(address)}"
        case FileMemory(offset):
            return f"@+{format_number(offset)}"
        case Immediate(value):
            return f"\\{format_number(value)}"
        case ImmediateString(string):
            return f'\\"{string}"'
        case Dereference(base, offset, user):
            sign = "-" if offset < 0 else "+"
            letter = "u" if user else ""
            return f"{sign}{letter}{format_number(abs(offset))}({_format_source(base)})"
        case Sum() | Operand():
            raise TypeError("what a marker says of its arguments has no notation")
