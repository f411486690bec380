"""Fetchargs and filters interpreted step by step, to compare the compiled ones with.

Written after kernel/trace/trace_probe_tmpl.h and lib/glob.c, one step of theirs a step here.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field

from ptrace_uprobes.definition import condition as c
from ptrace_uprobes.definition import fetcharg as f
from ptrace_uprobes.fetching.value import FAULT, Fault
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS

__all__ = ["FakeContext", "glob_match", "matches", "reference_value"]

PAGE = 4096
Raw = int | float | bytes | Fault | tuple[int | float | bytes | Fault, ...]


@dataclass
class FakeContext:
    """A stopped thread made of dictionaries."""

    words: dict[str, int] = field(default_factory=dict)
    memory: dict[int, bytes] = field(default_factory=dict)
    """Pages by address."""
    tid: int = 42
    pid: int = 41
    address: int = 0x401000
    function: int = 0x402000
    name: bytes = b"prog"
    vectors: dict[int, bytes] = field(default_factory=dict)
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def registers(self) -> bytearray:
        data = bytearray(27 * 8)
        for name, value in self.words.items():
            struct.pack_into("<Q", data, USER_OFFSETS[name], value)
        return data

    @registers.setter
    def registers(self, value: bytearray) -> None:
        raise AssertionError("fetching only looks")

    def comm(self) -> bytes:
        return self.name

    def cpu(self) -> int:
        return 3

    def xmm(self, number: int, /) -> bytes:
        return self.vectors.get(number, bytes(16))

    def read(self, address: int, size: int, /) -> bytes:
        assert 0 <= address < 1 << 64
        self.reads.append((address, size))
        data = b""
        while len(data) < size:
            page = self.memory.get((address + len(data)) & -PAGE)
            if page is None:
                break
            data += page[(address + len(data)) % PAGE :][: size - len(data)]
        return data

    def write(self, address: int, data: bytes) -> None:
        """Maps what it needs."""
        for offset, byte in enumerate(data):
            at = address + offset
            page = bytearray(self.memory.get(at & -PAGE, bytes(PAGE)))
            page[at % PAGE] = byte
            self.memory[at & -PAGE] = bytes(page)


class _Faulted(Exception):
    pass


_NAMES = dict(
    zip(
        ["ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "flags", "orig_ax"],
        ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "eflags", "orig_rax"],
        strict=True,
    )
)
_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")


def _exactly(context: FakeContext, address: int, size: int) -> bytes:
    data = context.read(address % 2**64, size)
    if len(data) != size:
        raise _Faulted
    return data


def _register(context: FakeContext, name: str) -> int:
    if name in ("ip", "rip"):
        return context.address
    return context.words.get(_NAMES.get(name, name), 0)


def _word(context: FakeContext, source: f.Source, file_base: int) -> int:
    if isinstance(source, f.Register):
        return _register(context, source.name)
    if isinstance(source, f.StackAddress):
        return _register(context, "sp")
    if isinstance(source, f.ReturnValue):
        return _register(context, "ax")
    if isinstance(source, f.Immediate):
        return source.value % 2**64
    if isinstance(source, f.Argument) and source.number < 6:
        return _register(context, _ARGUMENTS[source.number])
    if isinstance(source, f.VectorRegister):
        return int.from_bytes(context.xmm(source.number)[:8], "little")
    if isinstance(source, f.Argument):
        address = _register(context, "sp") + 8 * (source.number - 5)
    elif isinstance(source, f.StackWord):
        address = _register(context, "sp") + 8 * source.number
    else:
        address = _address(context, source, file_base)
    return int.from_bytes(_exactly(context, address, 8), "little")


def _address(context: FakeContext, source: f.Source, file_base: int) -> int:
    if isinstance(source, f.Memory):
        return source.address
    if isinstance(source, f.FileMemory):
        return (file_base + source.offset) % 2**64
    assert isinstance(source, f.Dereference)
    return (_word(context, source.base, file_base) + source.offset) % 2**64


def _convert(raw: bytes, kind: f.FetchType) -> int | float:
    if kind.kind is f.Kind.FLOAT:
        value: float = struct.unpack("<f" if kind.bits == 32 else "<d", raw)[0]
        return value
    number = int.from_bytes(raw, "little", signed=kind.kind is f.Kind.SIGNED)
    if kind.kind is f.Kind.BITFIELD:
        digits = f"{number:0{kind.bits}b}"[::-1][kind.shift : kind.shift + kind.width]
        return int(digits[::-1], 2)
    return number


def _string(context: FakeContext, address: int) -> bytes | Fault:
    data = b""
    while len(data) < 4096:
        byte = context.read((address + len(data)) % 2**64, 1)
        if byte == b"\0":
            return data
        if not byte:
            return FAULT
        data += byte
    return FAULT


def reference_value(context: FakeContext, argument: f.FetchArg, file_base: int = 0) -> Raw:
    """The raw value of one fetcharg."""
    source, kind = argument.source, argument.type
    if isinstance(source, f.Comm):
        return context.comm()
    if isinstance(source, f.ImmediateString):
        return source.text.encode("utf-8", "surrogateescape")
    in_memory = isinstance(source, f.Memory | f.FileMemory | f.Dereference)
    is_string = kind.kind in (f.Kind.STRING, f.Kind.USER_STRING)
    try:
        if is_string and isinstance(source, f.Immediate):
            return _string(context, source.value % 2**64)
        if not in_memory:
            word = _word(context, source, file_base)
            return _convert(word.to_bytes(8, "little")[: kind.bits // 8], kind)
        address = _address(context, source, file_base)
    except _Faulted:
        return FAULT if kind.count is None else (FAULT,) * kind.count
    size = 8 if is_string else kind.bits // 8
    if kind.count is None:
        return _string(context, address) if is_string else _element(context, address, kind)
    elements: list[int | float | bytes | Fault] = []
    for index in range(kind.count):
        at = (address + index * size) % 2**64
        if not is_string:
            elements.append(_element(context, at, kind))
            continue
        try:
            pointer = int.from_bytes(_exactly(context, at, 8), "little")
            elements.append(_string(context, pointer))
        except _Faulted:
            elements.append(FAULT)
    return tuple(elements)


def _element(context: FakeContext, address: int, kind: f.FetchType) -> int | float | Fault:
    try:
        return _convert(_exactly(context, address, kind.bits // 8), kind)
    except _Faulted:
        return FAULT


def matches(condition: c.Condition, values: dict[str, Raw], kinds: dict[str, f.FetchType]) -> bool:
    """Whether the filter lets values through."""
    if isinstance(condition, c.And):
        return matches(condition.left, values, kinds) and matches(condition.right, values, kinds)
    if isinstance(condition, c.Or):
        return matches(condition.left, values, kinds) or matches(condition.right, values, kinds)
    if isinstance(condition, c.Not):
        return not matches(condition.operand, values, kinds)
    have, want = values[condition.field], condition.value
    if have is FAULT:
        return False
    if isinstance(have, bytes):
        assert isinstance(want, str)
        text = want.encode()
        if condition.operator == "~":
            return glob_match(text.removeprefix(b"!"), have) != text.startswith(b"!")
        return (have == text) == (condition.operator == "==")
    assert isinstance(have, int)
    assert isinstance(want, int)
    kind = kinds[condition.field]
    # The cast of the kernel's DEFINE_COMPARISON_PRED, by the C compiler's own rules.
    letter = "int" if kind.kind is f.Kind.SIGNED else "uint"
    cut = int(getattr(ctypes, f"c_{letter}{kind.bits}")(want).value)
    return {
        "==": have == cut,
        "!=": have != cut,
        "<": have < cut,
        "<=": have <= cut,
        ">": have > cut,
        ">=": have >= cut,
        "&": have & cut != 0,
    }[condition.operator]


def glob_match(pattern: bytes, text: bytes) -> bool:
    """lib/glob.c by trying everything; for short patterns only."""
    if not pattern:
        return not text
    first, rest = pattern[:1], pattern[1:]
    if first == b"*":
        return any(glob_match(rest, text[i:]) for i in range(len(text) + 1))
    if not text:
        return False
    if first == b"?":
        return glob_match(rest, text[1:])
    if first == b"[" and (end := rest.find(b"]", 2 if rest[:1] == b"!" else 1)) >= 0:
        inverted = rest[:1] == b"!"
        inside = rest[inverted:end]
        found = False
        while inside:
            if inside[1:2] == b"-" and len(inside) > 2:
                found |= inside[0] <= text[0] <= inside[2]
                inside = inside[3:]
            else:
                found |= inside[0] == text[0]
                inside = inside[1:]
        return found != inverted and glob_match(rest[end + 1 :], text[1:])
    if first == b"\\" and rest:
        first, rest = rest[:1], rest[1:]
    return text[:1] == first and glob_match(rest, text[1:])
