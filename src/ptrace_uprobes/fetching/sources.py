"""Expressions, as Python source text, that fetch one fetcharg.

Nothing of what a user wrote gets into the text but numbers: names and strings are constants
that the generated function finds under names of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from ptrace_uprobes.arch.base import Architecture
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
    Operand,
    Register,
    ReturnValue,
    Source,
    StackAddress,
    StackWord,
    Sum,
    VectorRegister,
)
from ptrace_uprobes.errors import BadSpec
from ptrace_uprobes.fetching.memory_values import FIRST_READ
from ptrace_uprobes.fetching.value import FAULT
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS

__all__ = ["Expression", "Read", "SourceWriter", "struct_of"]

_MASK: Final = (1 << 64) - 1
_DEEPEST: Final = 32
"""Dereferences in one fetcharg; the kernel takes 14 (FETCH_INSN_MAX)."""
_STRINGS: Final = (Kind.STRING, Kind.USER_STRING)
_SIGNED: Final = {8: "b", 16: "h", 32: "i", 64: "q"}
_FLOATS: Final = {32: "f", 64: "d"}
# arch/x86/kernel/ptrace.c, regoffset_table: the kernel's names; the rest are user_regs_struct's.
_KERNEL_NAMES: Final = {
    "ax": "rax",
    "bx": "rbx",
    "cx": "rcx",
    "dx": "rdx",
    "si": "rsi",
    "di": "rdi",
    "bp": "rbp",
    "sp": "rsp",
    "ip": "rip",
    "flags": "eflags",
    "orig_ax": "orig_rax",
}


def struct_of(fetch_type: FetchType, count: int = 1) -> Struct:
    """How `count` elements of a type lie in memory; a bitfield's container is unsigned."""
    if fetch_type.kind is Kind.FLOAT:
        letter = _FLOATS[fetch_type.bits]
    else:
        letter = _SIGNED[fetch_type.bits]
        if fetch_type.kind is not Kind.SIGNED:
            letter = letter.upper()
    return Struct(f"<{count}{letter}")


@dataclass(frozen=True, slots=True)
class Read:
    """A read of `size` bytes, left in `d`; as a guard it holds if all of them could be read."""

    base: str
    offset: int
    size: int

    @property
    def address(self) -> str:
        return _sum(self.base, self.offset)

    def __str__(self) -> str:
        return f"len(d := read({self.address}, {self.size})) == {self.size}"


@dataclass(frozen=True, slots=True)
class Expression:
    """A value that may need memory: if all guards hold, evaluated in order, `text` is the
    value, and `fault` where one does not. `text` finds in `d` what the last one read."""

    text: str
    guards: tuple[Read, ...] = ()
    fault: str = "FAULT"

    def __str__(self) -> str:
        text = self.text
        for guard in reversed(self.guards):
            text = f"({text} if {guard} else {self.fault})"
        return text

    @property
    def may_fault(self) -> bool:
        return bool(self.guards) or "read" in self.text


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something lies in memory."""

    base: str
    offset: int = 0
    guards: tuple[Read, ...] = ()

    @property
    def address(self) -> str:
        return _sum(self.base, self.offset)

    def read(self, size: int) -> tuple[Read, ...]:
        return (*self.guards, Read(self.base, self.offset, size))


def _sum(base: str, offset: int) -> str:
    return f"({base} + {offset} & {_MASK})" if offset else base


@dataclass(slots=True)
class SourceWriter:
    """Writes expressions, and notes what they need."""

    architecture: Architecture
    is_return: bool
    registers: set[str] = field(default_factory=set)
    constants: dict[str, object] = field(default_factory=dict)
    file_offsets: dict[int, str] = field(default_factory=dict)
    """File offset to the variable that holds its address."""

    def constant(self, value: object) -> str:
        """The name under which generated code finds `value`."""
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def fetch(self, argument: FetchArg) -> Expression:
        """The raw value: a number, bytes, a tuple of them, or FAULT."""
        try:
            return self._fetch(argument.source, argument.type)
        except _Unfit as error:
            raise BadSpec(argument.name, 0, str(error)) from None

    def _fetch(self, source: Source, fetch_type: FetchType) -> Expression:
        place = self._place(source, 0)
        if fetch_type.kind in _STRINGS or isinstance(source, Comm | ImmediateString):
            return self._string(source, fetch_type, place)
        if place is not None:
            return self._of_memory(place, fetch_type)
        if fetch_type.count is not None:
            raise _Unfit("an array needs an address to lie at")
        return self._of_word(self._word(source, 0), fetch_type)

    def _faults(self, count: int) -> str:
        """What stands for an array that cannot be had."""
        return self.constant((FAULT,) * count)

    def _place(self, source: Source, depth: int) -> _Place | None:
        """Where the source lies, if it lies in memory."""
        if depth > _DEEPEST:
            raise _Unfit(f"at most {_DEEPEST} dereferences are nested")
        match source:
            case Memory(address):
                return _Place(str(address & _MASK))
            case FileMemory(offset):
                name = self.file_offsets.setdefault(offset, f"file_{len(self.file_offsets)}")
                return _Place(name)
            case Dereference(base, offset):
                if isinstance(base, Comm | ImmediateString):
                    raise _Unfit("a string cannot be dereferenced")
                word = self._word(base, depth + 1)
                return _Place(word.text, offset, word.guards)
        return None

    def _word(self, source: Source, depth: int) -> Expression:
        """A register's bits, unsigned."""
        match source:
            case Register(name):
                return Expression(self.register(name))
            case StackAddress():
                return Expression(self.register(self.architecture.sp_register))
            case ReturnValue():
                if not self.is_return:
                    raise _Unfit("$retval is for return probes")
                return Expression(self.register(self.architecture.result_register))
            case Immediate(value):
                return Expression(str(value & _MASK))
            case StackWord(number):
                return self._stack_word(number)
            case Argument(number):
                if self.is_return:
                    raise _Unfit("arguments are for probes at a function's entry")
                names = self.architecture.argument_registers
                if number < len(names):
                    return Expression(self.register(names[number]))
                # SysV ABI 3.2.3: the others lie above the return address.
                return self._stack_word(number - len(names) + 1)
            case Operand():
                return self._operand(source, depth)
            case Sum(base, index, scale):
                scaled = f"{self.register(index.name)} * {scale}"
                text = scaled if base is None else f"{self.register(base.name)} + {scaled}"
                return Expression(f"({text} & {self.architecture.mask})")
            case VectorRegister(number):
                return Expression(f'from_bytes(context.xmm({number})[:8], "little")')
        place = self._place(source, depth)
        if place is None:
            raise _Unfit("a string is no number")
        # A pointer's size is the program's, also where a 64-bit kernel's uprobes take 8 bytes.
        return Expression('from_bytes(d, "little")', place.read(self.architecture.word_size))

    def _operand(self, operand: Operand, depth: int) -> Expression:
        """As wide as a register: a narrow one is extended as its marker says."""
        place = self._place(operand.source, depth)
        if place is None:
            word = self._word(operand.source, depth)
            text, guards = word.text, word.guards
        else:
            text, guards = 'from_bytes(d, "little")', place.read(operand.bits // 8)
        if operand.shift:
            text = f"({text} >> {operand.shift})"
        if operand.bits < 64:
            text = f"({text} & {(1 << operand.bits) - 1})"
            if operand.is_signed:
                sign = 1 << operand.bits - 1
                text = f"(({text} ^ {sign}) - {sign} & {_MASK})"
        return Expression(text, guards)

    def _stack_word(self, number: int) -> Expression:
        top = self.register(self.architecture.sp_register)
        size = self.architecture.word_size
        return Expression('from_bytes(d, "little")', (Read(top, size * number, size),))

    def register(self, name: str) -> str:
        """The variable that holds a general register."""
        name = _KERNEL_NAMES.get(name, name)
        if name == "rip":
            return "context.address"
        narrow = self.architecture.word_size == 4
        if name not in USER_OFFSETS or (narrow and name[1:].isdecimal()):
            raise _Unfit(f"there is no register %{name}")
        self.registers.add(name)
        return f"r_{name}"

    def _of_word(self, word: Expression, fetch_type: FetchType) -> Expression:
        bits, mask = fetch_type.bits, (1 << fetch_type.bits) - 1
        text = word.text
        match fetch_type.kind:
            case Kind.BITFIELD:
                text = _bitfield(text, fetch_type)
            case Kind.FLOAT:
                struct = struct_of(fetch_type)
                pack, unpack = self.constant(Struct("<Q").pack), self.constant(struct.unpack)
                text = f"{unpack}({pack}({text})[:{struct.size}])[0]"
            case Kind.SIGNED:
                masked = text if bits == 64 else f"({text} & {mask})"
                text = f"({masked} ^ {1 << bits - 1}) - {1 << bits - 1}"
            case _ if bits < 64:
                text = f"{text} & {mask}"
        return Expression(f"({text})", word.guards)

    def _of_memory(self, place: _Place, fetch_type: FetchType) -> Expression:
        if fetch_type.count is not None:
            return self._array(place, fetch_type, fetch_type.count)
        struct = struct_of(fetch_type)
        if fetch_type.kind in (Kind.SIGNED, Kind.FLOAT):
            text = f"{self.constant(struct.unpack)}(d)[0]"
        else:
            text = 'from_bytes(d, "little")'
            if fetch_type.kind is Kind.BITFIELD:
                text = f"({_bitfield(text, fetch_type)})"
        return Expression(text, place.read(struct.size))

    def _array(self, place: _Place, fetch_type: FetchType, count: int) -> Expression:
        struct = struct_of(fetch_type, count)
        unpack = self.constant(struct.unpack)
        one = self.constant(struct_of(fetch_type))
        text = (
            f"({unpack}(d) if len(d := read((a := {place.address}), {struct.size}))"
            f" == {struct.size} else array(read, a, d, {count}, {one}))"
        )
        if fetch_type.kind is Kind.BITFIELD:
            text = f"bitfields({text}, {fetch_type.shift}, {(1 << fetch_type.width) - 1})"
        return Expression(text, place.guards, self._faults(count))

    def _string(self, source: Source, fetch_type: FetchType, place: _Place | None) -> Expression:
        count = fetch_type.count
        if isinstance(source, Comm | ImmediateString):
            if count is not None:
                raise _Unfit("$comm and immediate strings are one string, not an array")
            if fetch_type.kind not in _STRINGS:
                raise _Unfit("$comm and immediate strings have the type string")
            if isinstance(source, Comm):
                return Expression("context.comm()")
            return Expression(self.constant(source.text.encode("utf-8", "surrogateescape")))
        if isinstance(source, Immediate) and count is None:
            # As the kernel has it: the number is where the string lies.
            place = _Place(str(source.value & _MASK))
        if place is None:
            raise _Unfit("a string needs an address to lie at")
        if count is not None:
            text = f"strings(read, {place.address}, {count}, {self.architecture.word_size})"
            return Expression(text, place.guards, self._faults(count))
        text = (
            f'(d[:i] if (i := (d := read((a := {place.address}), {FIRST_READ})).find(b"\\0")) >= 0'
            " else rest_of_string(read, a, d))"
        )
        return Expression(text, place.guards)


def _bitfield(text: str, fetch_type: FetchType) -> str:
    shifted = f"{text} >> {fetch_type.shift}" if fetch_type.shift else text
    return f"{shifted} & {(1 << fetch_type.width) - 1}"


class _Unfit(Exception):
    """Why a fetcharg cannot be had; becomes a `BadSpec`."""
