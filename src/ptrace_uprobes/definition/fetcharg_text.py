"""Fetchargs as text: `NAME=SOURCE:TYPE`, parsed.

The language is the kernel's (`traceprobe_parse_probe_arg` of kernel/trace/trace_probe.c for
a probe in user space), with its bounds; `%xmm0`, `argN`, `$argN`, `%rdi` and `%edi` are ours.
"""

from __future__ import annotations

import re

from ptrace_uprobes.definition.fetch_type_text import default_type, parse_type
from ptrace_uprobes.definition.fetcharg import (
    MOST_FETCHARGS,
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
from ptrace_uprobes.definition.number_text import parse_number
from ptrace_uprobes.definition.quotation import quoted
from ptrace_uprobes.errors import BadSpec

__all__ = ["REGISTERS", "RESERVED_NAMES", "parse_fetchargs"]

REGISTERS = frozenset(
    ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip", "flags", "cs", "ss", "orig_ax")
) | frozenset(f"r{number}" for number in range(8, 16))
"""regoffset_table of arch/x86/kernel/ptrace.c."""
_NARROW = frozenset(f"e{name}" for name in ["ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip"])
"""All of an i386 register, the lower half of an x86-64 one."""
_ALIASES = {
    **{name: name[1:] for name in _NARROW},
    **{f"r{name}": name for name in ["ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip"]},
    "eflags": "flags",
    "rflags": "flags",
    "orig_rax": "orig_ax",
}
RESERVED_NAMES = frozenset(
    (
        *("common_type", "common_flags", "common_preempt_count", "common_pid", "common_tgid"),
        *("__probe_ip", "__probe_ret_ip", "__probe_func"),
    )
)
"""reserved_field_names of kernel/trace/trace_probe.c."""
_LONGEST_NAME = 32  # MAX_ARG_NAME_LEN
_LONGEST_BODY = 63  # MAX_ARGSTR_LEN
_LAST_INSTRUCTION = 14  # of FETCH_INSN_MAX = 16, the last one being the end
_MOST_ARGUMENTS = 64

_WORD = re.compile(r"[^ \t\n\v\f\r]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_XMM = re.compile(r"xmm([0-9]{1,2})")
_ARGUMENT = re.compile(r"arg([0-9]{1,4})")
_SIGNED = (-(1 << 63), (1 << 63) - 1)
_UNSIGNED = (0, (1 << 64) - 1)


def parse_fetchargs(text: str, start: int, end: int, *, is_return: bool) -> tuple[FetchArg, ...]:
    """The fetchargs in `text[start:end]`; positions in errors are those of `text`."""
    fetchargs: list[FetchArg] = []
    names: set[str] = set()
    for word in _WORD.finditer(text, start, end):
        if len(fetchargs) == MOST_FETCHARGS:
            raise BadSpec(text, word.start(), f"a probe has at most {MOST_FETCHARGS} fetchargs")
        parser = _Parser(text, word.start(), word.end(), is_return)
        fetcharg = parser.fetcharg(len(fetchargs) + 1)
        if fetcharg.name in names:
            why = f"the name {fetcharg.name!r} is used twice"
            if "=" not in word.group():
                why += ": give this fetcharg one of its own, NAME=..."
            raise BadSpec(text, word.start(), why)
        names.add(fetcharg.name)
        fetchargs.append(fetcharg)
    return tuple(fetchargs)


class _Parser:
    """One fetcharg, in `text[start:end]`, which holds no white space."""

    def __init__(self, text: str, start: int, end: int, is_return: bool) -> None:
        self._text = text
        self._start = start
        self._end = end
        self._is_return = is_return

    def _bad(self, position: int, why: str) -> BadSpec:
        return BadSpec(self._text, position, why)

    def fetcharg(self, number: int) -> FetchArg:
        text, start, end = self._text, self._start, self._end
        equals = text.find("=", start, end)
        name = None
        if equals >= 0:
            name = self._name(equals)
            start = equals + 1
        if start == end:
            raise self._bad(start, "what to fetch is missing after '='")
        if end - start > _LONGEST_BODY:
            why = f"a fetcharg has at most {_LONGEST_BODY} characters after its name"
            raise self._bad(start + _LONGEST_BODY, why)
        # As in the kernel the first ':' ends the source, also within an immediate string.
        colon = text.find(":", start, end)
        source_end = end if colon < 0 else colon
        source = self._source(start, source_end, 0)
        written = None if colon < 0 else parse_type(text, colon + 1, end)
        if text[start + 1 : source_end] in _NARROW and isinstance(source, Register):
            if written is None:
                written = FetchType(Kind.HEXADECIMAL, 32)
            elif written.bits > 32:
                raise self._bad(source_end + 1, "this register has 32 bits, and its type no more")
        type_ = self._fitting_type(source, written, start, source_end + 1)
        self._check_length(source, type_, start)
        if name is None:
            # Called by its place `arg0 arg1` would be arg1 and arg2: each by another's name.
            is_argument = isinstance(source, Argument)
            name = text[start:source_end].lstrip("$") if is_argument else f"arg{number}"
        return FetchArg(name, source, type_)

    def _name(self, equals: int) -> str:
        start = self._start
        name = self._text[start:equals]
        if not name:
            raise self._bad(start, "a name is missing before '='")
        good = _NAME.match(name)
        if good is None:
            raise self._bad(start, "a fetcharg's name begins with a letter or '_'")
        if good.end() != len(name):
            why = f"{name[good.end()]!r} cannot be part of a fetcharg's name"
            raise self._bad(start + good.end(), why)
        if len(name) > _LONGEST_NAME:
            raise self._bad(start, f"a fetcharg's name has at most {_LONGEST_NAME} characters")
        if name in RESERVED_NAMES:
            raise self._bad(start, f"the name {quoted(name)} is one of the kernel's own fields")
        return name

    def _source(self, start: int, end: int, depth: int) -> Source:
        text = self._text
        first = text[start] if start < end else ""
        if first == "%":
            return self._register(start, end)
        if first == "$":
            return self._variable(start, end)
        if first == "@":
            return self._memory(start, end)
        if first in ("+", "-"):
            return self._dereference(start, end, depth)
        if first == "\\":
            return self._immediate(start, end)
        if argument := _ARGUMENT.fullmatch(text, start, end):
            return self._argument(start, int(argument.group(1)))
        if not first:
            raise self._bad(start, "what to fetch is missing here")
        raise self._bad(
            start,
            f"{quoted(text[start:end])} is no fetcharg: they begin with "
            "%REGISTER, $VARIABLE, @ADDRESS, +OFFSET(, -OFFSET(, \\NUMBER or are argN",
        )

    def _register(self, start: int, end: int) -> Source:
        name = self._text[start + 1 : end]
        if name in REGISTERS:
            return Register(name)
        if name in _ALIASES:
            return Register(_ALIASES[name])
        if vector := _XMM.fullmatch(name):
            number = int(vector.group(1))
            if number < 16 and str(number) == vector.group(1):
                return VectorRegister(number)
            raise self._bad(start + 1, "vector registers are %xmm0 to %xmm15")
        if name == "return":
            raise self._bad(start, "%return follows the place directly, without a blank")
        raise self._bad(
            start + 1,
            f"no register is called {quoted(name)}; there are ax, di, ip, flags, r8, xmm0 ...",
        )

    def _variable(self, start: int, end: int) -> Source:
        name = self._text[start + 1 : end]
        if name == "retval":
            if not self._is_return:
                raise self._bad(start, "$retval needs a return probe: PLACE%return")
            return ReturnValue()
        if name in ("comm", "COMM"):
            return Comm()
        if name == "stack":
            return StackAddress()
        if name.startswith("stack"):
            digits = name[5:]
            if not (digits.isascii() and digits.isdecimal()) or len(digits) > 10:
                raise self._bad(start + 6, "a word of the stack is $stackN, N a decimal number")
            if (word := int(digits)) >= 1 << 32:
                raise self._bad(start + 6, "a word of the stack has a number of at most 32 bits")
            return StackWord(word)
        if argument := _ARGUMENT.fullmatch(name):
            number = int(argument.group(1))
            if not number:
                raise self._bad(start + 4, "$argN counts from 1; arg0 is the first argument too")
            return self._argument(start, number - 1)
        raise self._bad(
            start + 1,
            f"no variable is called {quoted(name)}; there are stack, stackN, retval, comm, argN",
        )

    def _argument(self, start: int, number: int) -> Source:
        if self._is_return:
            why = "a return probe has no arguments: their registers are gone; record them at entry"
            raise self._bad(start, why)
        if number >= _MOST_ARGUMENTS:
            raise self._bad(start, f"at most {_MOST_ARGUMENTS} arguments can be asked for")
        return Argument(number)

    def _memory(self, start: int, end: int) -> Source:
        body = self._text[start + 1 : end]
        if body.startswith("+"):
            offset = parse_number(body[1:], 0, _SIGNED[1])
            if offset is None:
                raise self._bad(start + 2, "an offset in the file is a number, as @+0x4010")
            return FileMemory(offset)
        address = parse_number(body, *_UNSIGNED)
        if address is None:
            if _NAME.match(body):
                why = "a symbol here is for the kernel's own memory; write @ADDRESS or @+OFFSET"
                raise self._bad(start + 1, why)
            raise self._bad(start + 1, "an address is a number of at most 64 bits, as @0x404010")
        return Memory(address)

    def _dereference(self, start: int, end: int, depth: int) -> Source:
        text = self._text
        at = start + 1
        user = text.startswith("u", at, end)
        at += user
        brace = text.find("(", at, end)
        if brace < 0:
            raise self._bad(end, f"'(' is missing: {text[start]}OFFSET(ADDRESS)")
        sign = "-" if text[start] == "-" else ""
        offset = parse_number(sign + text[at:brace], *_SIGNED)
        if offset is None or text[at] == "-":
            raise self._bad(at, "an offset is a number of at most 64 bits, as +8( or -0x10(")
        if depth >= _LAST_INSTRUCTION:
            raise self._bad(start, f"at most {_LAST_INSTRUCTION} dereferences can be nested")
        if text[end - 1] != ")":
            if text.find(")", brace, end) < 0:
                raise self._bad(end, "')' is missing here")
            raise self._bad(text.rfind(")", brace, end) + 1, "nothing but :TYPE follows ')'")
        inner = self._source(brace + 1, end - 1, depth + 1)
        if isinstance(inner, (Comm, ImmediateString)):
            raise self._bad(brace + 1, "a string is no address: it cannot be dereferenced")
        if isinstance(inner, VectorRegister):
            raise self._bad(brace + 1, "a vector register holds no address")
        return Dereference(inner, offset, user)

    def _immediate(self, start: int, end: int) -> Source:
        body = self._text[start + 1 : end]
        if body.startswith('"'):
            if len(body) < 2 or not body.endswith('"'):
                why = "a string ends with '\"'; white space and ':' cannot be part of it"
                raise self._bad(end, why)
            return ImmediateString(body[1:-1])
        value = parse_number(body.removeprefix("+"), _SIGNED[0], _UNSIGNED[1])
        if value is None or body.startswith("+-"):
            raise self._bad(start + 1, 'a number or a string follows the \\: \\42, \\-1, \\"text"')
        return Immediate(value)

    def _fitting_type(
        self, source: Source, written: FetchType | None, start: int, position: int
    ) -> FetchType:
        """The type, the default where none was written; refuses what the source cannot be."""
        if written is None:
            return default_type(source)
        if isinstance(source, (Comm, ImmediateString)):
            if written != FetchType(Kind.STRING, 0):
                raise self._bad(position, "this is text: its type is string, or left out")
            return written
        if isinstance(source, VectorRegister):
            if written.kind is not Kind.FLOAT or written.count is not None:
                raise self._bad(position, "a vector register is read as f64 or f32")
            return written
        is_memory = isinstance(source, (Memory, FileMemory, Dereference))
        if written.kind in (Kind.STRING, Kind.USER_STRING):
            if not is_memory and not (isinstance(source, Immediate) and written.count is None):
                value = self._text[start : position - 1]
                why = f"a string needs an address to read it from: +0({value}):string"
                raise self._bad(position, why)
        elif written.count is not None and not is_memory:
            value = self._text[start : position - 1]
            raise self._bad(position, f"an array needs memory to read it from: +0({value}):...")
        elif written.count is not None and isinstance(source, Dereference) and source.user:
            # traceprobe_parse_probe_arg_body knows no array behind FETCH_OP_ST_UMEM.
            raise self._bad(start + 1, "an array is read without the 'u'; it is user space anyway")
        elif written.kind is Kind.FLOAT and not is_memory:
            raise self._bad(position, "floating-point numbers are in %xmm0 to %xmm15, or in memory")
        return written

    def _check_length(self, source: Source, type_: FetchType, start: int) -> None:
        """The kernel compiles a fetcharg to at most 16 instructions; so many are enough."""
        last = 0
        inner = source
        while isinstance(inner, Dereference):
            last += 1
            inner = inner.base
        last += isinstance(inner, (Memory, FileMemory))
        if type_.kind in (Kind.STRING, Kind.USER_STRING):
            last += last == 0 or type_.count is not None
        else:
            last += last == 0
        last += type_.kind is Kind.BITFIELD
        last += type_.count is not None
        if last > _LAST_INSTRUCTION:
            raise self._bad(start, "so many dereferences are more than the kernel can compile")
