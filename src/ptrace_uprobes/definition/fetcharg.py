"""What a probe records at a hit: fetchargs, as values.

The forms are those of Documentation/trace/uprobetracer.rst, and two of our own: `%xmm0` and
`argN`. Nothing here knows how they are written (`fetcharg_text`) or read in a live program
(`fetching/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = [
    "MOST_FETCHARGS",
    "Argument",
    "Comm",
    "Dereference",
    "FetchArg",
    "FetchType",
    "FileMemory",
    "Immediate",
    "ImmediateString",
    "Kind",
    "Memory",
    "Operand",
    "Register",
    "ReturnValue",
    "Source",
    "StackAddress",
    "StackWord",
    "Sum",
    "VectorRegister",
]

MOST_FETCHARGS = 128
"""MAX_TRACE_ARGS of kernel/trace/trace_probe.h."""


@dataclass(frozen=True, slots=True)
class Register:
    """`%di`: a general register, by the kernel's name (`regs_query_register_offset`)."""

    name: str


@dataclass(frozen=True, slots=True)
class VectorRegister:
    """`%xmm0`: ours; its type is f32 or f64, the lowest element."""

    number: int


@dataclass(frozen=True, slots=True)
class Argument:
    """`arg0`: the ABI's integer argument, counted from 0."""

    number: int


@dataclass(frozen=True, slots=True)
class StackAddress:
    """`$stack`: the stack pointer."""


@dataclass(frozen=True, slots=True)
class StackWord:
    """`$stackN`: word N of the stack, counted from 0."""

    number: int


@dataclass(frozen=True, slots=True)
class ReturnValue:
    """`$retval`, for return probes."""


@dataclass(frozen=True, slots=True)
class Comm:
    """`$comm`: the thread's name, a string."""


@dataclass(frozen=True, slots=True)
class Memory:
    """`@ADDR`: what is at a virtual address."""

    address: int


@dataclass(frozen=True, slots=True)
class FileMemory:
    """`@+OFFSET`: what is OFFSET past where the probed file's first byte is, or would be, were all
    of it mapped as the part that is probed: an address as the file's program headers have it, and
    not its byte OFFSET, where the two differ."""

    offset: int


@dataclass(frozen=True, slots=True)
class Immediate:
    r"""`\IMM`: a number."""

    value: int


@dataclass(frozen=True, slots=True)
class ImmediateString:
    r"""`\"text"`: a string."""

    text: str


@dataclass(frozen=True, slots=True)
class Dereference:
    """`+OFFS(base)`: what is at an address. `user` (`+uOFFS(base)`) is the same in user space."""

    base: Source
    offset: int
    user: bool = False


@dataclass(frozen=True, slots=True)
class Sum:
    """`(%rax,%rbx,4)`: an address of two registers. Only markers have it, no notation."""

    base: Register | None
    index: Register
    scale: int


@dataclass(frozen=True, slots=True)
class Operand:
    """An argument of a USDT marker, as the marker says where it is. No notation writes it: it
    takes the place of an `Argument` where the probe is planted."""

    source: Source
    """A register, a number, or memory."""
    bits: int
    is_signed: bool
    shift: int = 0
    """8 for `%ah` and the like."""


Source = (
    Register
    | VectorRegister
    | Argument
    | StackAddress
    | StackWord
    | ReturnValue
    | Comm
    | Memory
    | FileMemory
    | Immediate
    | ImmediateString
    | Dereference
    | Sum
    | Operand
)


class Kind(Enum):
    """What the bytes mean, and so how they are printed."""

    UNSIGNED = "u"
    SIGNED = "s"
    HEXADECIMAL = "x"
    CHARACTER = "char"
    STRING = "string"
    USER_STRING = "ustring"
    BITFIELD = "b"
    FLOAT = "f"


@dataclass(frozen=True, slots=True)
class FetchType:
    """`u32`, `x8[4]`, `b3@5/32`, `string`."""

    kind: Kind
    bits: int = 64
    """Of one element; of the container of a bitfield; 8 for a character; 0 for strings."""
    width: int = 0
    """Bits of a bitfield, else 0."""
    shift: int = 0
    """Where a bitfield begins, in bits from the container's lowest."""
    count: int | None = None
    """Elements of an array, else None."""


@dataclass(frozen=True, slots=True)
class FetchArg:
    """`NAME=SOURCE:TYPE`. `type` is the kernel's default (x64) where none was written; for
    `$comm` and immediate strings that is `string`."""

    name: str
    """As given; where none was, an argument's own spelling without `$`, and for all else `argN`,
    N being its place from 1 (as the kernel does)."""
    source: Source
    type: FetchType
