"""DWARF expressions, as far as call frame information uses them (DWARF 5, section 2.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ptrace_uprobes.unwind.cursor import Cursor, Malformed

__all__ = ["evaluate"]

_MASKS: Final = {4: (1 << 32) - 1, 8: (1 << 64) - 1}
_MOST_STEPS: Final = 256
_DEEPEST: Final = 64

_CONSTANTS: Final = {
    0x08: (1, False),
    0x09: (1, True),
    0x0A: (2, False),
    0x0B: (2, True),
    0x0C: (4, False),
    0x0D: (4, True),
    0x0E: (8, False),
    0x0F: (8, True),
}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _widened(value: int) -> int:
    """32 bits as the 64 that have the same sign."""
    return (value ^ 1 << 31) - (1 << 31) & _MASKS[8]


def _divide(a: int, b: int) -> int:
    """Towards zero, as C does."""
    quotient = abs(_signed(a)) // abs(_signed(b))
    return quotient if (_signed(a) < 0) == (_signed(b) < 0) else -quotient


_BINARY: Final[dict[int, Callable[[int, int], int]]] = {
    0x1A: lambda a, b: a & b,
    0x1B: _divide,
    0x1C: lambda a, b: a - b,
    0x1D: lambda a, b: a % b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << b if b < 64 else 0,
    0x25: lambda a, b: a >> b if b < 64 else 0,
    0x26: lambda a, b: _signed(a) >> min(b, 63),
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: int(a == b),
    0x2A: lambda a, b: int(_signed(a) >= _signed(b)),
    0x2B: lambda a, b: int(_signed(a) > _signed(b)),
    0x2C: lambda a, b: int(_signed(a) <= _signed(b)),
    0x2D: lambda a, b: int(_signed(a) < _signed(b)),
    0x2E: lambda a, b: int(a != b),
}
_SIGNED: Final = frozenset((0x1B, 0x26, *range(0x29, 0x2F)))
"""Those that take their operands as signed, comparisons among them."""
_UNARY: Final[dict[int, Callable[[int], int]]] = {
    0x19: lambda a: abs(_signed(a)),
    0x1F: lambda a: -a,
    0x20: lambda a: ~a,
}


def evaluate(
    code: bytes,
    initial: Sequence[int],
    register: Callable[[int], int],
    read: Callable[[int, int], int],
    bias: int,
    word: int = 8,
) -> int:
    """The top of the stack when `code` has run; raises `Malformed`.

    `register` gives a register by its DWARF number, `read` an integer of a size in memory;
    they raise `Malformed` where there is none. `bias` is added to addresses in `code`. The
    stack's elements, and addresses, have `word` bytes.
    """
    cursor = Cursor(code)
    stack = list(initial)
    for _ in range(_MOST_STEPS):
        if cursor.at >= cursor.end:
            if not stack:
                break
            return stack[-1]
        try:
            _step(cursor, stack, register, read, bias, word)
        except (IndexError, ZeroDivisionError) as error:
            raise Malformed("a DWARF expression fails") from error
        if len(stack) > _DEEPEST:
            break
    raise Malformed("a DWARF expression has no end or no result")


def _step(
    cursor: Cursor,
    stack: list[int],
    register: Callable[[int], int],
    read: Callable[[int, int], int],
    bias: int,
    word: int,
) -> None:
    mask = _MASKS[word]
    op = cursor.unsigned(1)
    if 0x70 <= op <= 0x8F:  # breg0..31
        stack.append(register(op - 0x70) + cursor.sleb() & mask)
    elif 0x30 <= op <= 0x4F:  # lit0..31
        stack.append(op - 0x30)
    elif op in _BINARY:
        b, a = stack.pop(), stack.pop()
        if word == 4 and op in _SIGNED:
            a, b = _widened(a), _widened(b)
        stack.append(_BINARY[op](a, b) & mask)
    elif op in _UNARY:
        a = stack.pop()
        stack.append(_UNARY[op](_widened(a) if word == 4 else a) & mask)
    elif op in _CONSTANTS:
        size, is_signed = _CONSTANTS[op]
        value = cursor.signed(size) if is_signed else cursor.unsigned(size)
        stack.append(value & mask)
    elif op == 0x06:  # deref
        stack.append(read(stack.pop(), word))
    elif op == 0x94:  # deref_size
        size = cursor.unsigned(1)
        if not 1 <= size <= 8:
            raise Malformed("a DWARF expression reads more than a word")
        stack.append(read(stack.pop(), size))
    elif op == 0x23:  # plus_uconst
        stack.append(stack.pop() + cursor.uleb() & mask)
    elif 0x50 <= op <= 0x6F:  # reg0..31; libgcc takes the register's value, too
        stack.append(register(op - 0x50))
    elif op == 0x90:  # regx
        stack.append(register(cursor.uleb()))
    elif op == 0x92:  # bregx
        number = cursor.uleb()
        stack.append(register(number) + cursor.sleb() & mask)
    elif op == 0x03:  # addr
        stack.append(cursor.unsigned(word) + bias & mask)
    elif op == 0x10:  # constu
        stack.append(cursor.uleb())
    elif op == 0x11:  # consts
        stack.append(cursor.sleb() & mask)
    elif op in (0x28, 0x2F):  # bra, skip
        distance = cursor.signed(2)
        if op == 0x2F or stack.pop() != 0:
            cursor.at += distance
            if not 0 <= cursor.at <= cursor.end:
                raise Malformed("a DWARF expression jumps out of itself")
    elif op != 0x96:  # nop
        _shuffle(op, cursor, stack)


def _shuffle(op: int, cursor: Cursor, stack: list[int]) -> None:
    if op == 0x12:  # dup
        stack.append(stack[-1])
    elif op == 0x13:  # drop
        stack.pop()
    elif op == 0x14:  # over
        stack.append(stack[-2])
    elif op == 0x15:  # pick
        stack.append(stack[-1 - cursor.unsigned(1)])
    elif op == 0x16:  # swap
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif op == 0x17:  # rot: the top becomes the third
        stack[-3:] = [stack[-1], stack[-3], stack[-2]] if len(stack) >= 3 else _nothing()
    else:
        raise Malformed(f"an unknown DWARF operation {op:#x}")


def _nothing() -> list[int]:
    raise IndexError
