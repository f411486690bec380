"""Call frame information and DWARF expressions made up by their grammar, and stacks walked by
them: what no compiler writes, though each of it is well formed for longer than random bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Final

from fuzz.files.bombs import write_program
from fuzz.files.readers import words
from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.symbols.source import FileSource
from ptrace_uprobes.unwind import Unwinder
from ptrace_uprobes.unwind.cursor import Malformed
from ptrace_uprobes.unwind.expression import evaluate

__all__ = ["expression", "instructions", "walk_made_up"]

_TEXT: Final = 0x1000
_CODE: Final = 0x1000
_FUNCTION: Final = 16
_BIAS: Final = 0x7F00_0000_0000
_STACK: Final = 0x7FFF_0000_0000
_EDGES: Final = (0, 1, 8, 16, 127, 128, 0xFFFF, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63)


def _uleb(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _sleb(value: int) -> bytes:
    data = bytearray()
    while not -64 <= value < 64:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value & 0x7F)
    return bytes(data)


def _any(rng: Random) -> int:
    return rng.choice((*_EDGES, rng.randrange(64), rng.getrandbits(64)))


def _either(rng: Random) -> int:
    return rng.choice((-8, 8, -16, 0, -(1 << 63), (1 << 63) - 1, rng.randrange(-512, 512)))


def expression(rng: Random, length: int | None = None) -> bytes:
    """Operations of DWARF 5, section 2.5, with true operands; the stack may run out."""
    made = b""
    for _ in range(rng.randrange(1, 40) if length is None else length):
        choice = rng.randrange(14)
        if choice < 3:
            made += bytes([0x70 + rng.choice((6, 7, 16, rng.randrange(32)))]) + _sleb(_either(rng))
        elif choice < 5:
            made += bytes([0x30 + rng.randrange(32)])
        elif choice == 5:
            made += b"\x06"  # deref
        elif choice == 6:
            made += bytes([rng.randrange(0x19, 0x28)]) + (
                _uleb(_any(rng)) if rng.random() < 0.2 else b""
            )
        elif choice == 7:
            made += bytes([rng.choice((0x12, 0x13, 0x14, 0x16, 0x17, 0x96))])
        elif choice == 8:  # skip, bra: also to itself, backwards, and out
            made += bytes([rng.choice((0x2F, 0x28))])
            made += struct.pack("<h", rng.choice((-3, -4, 0, 1, -len(made), 1000, -32768)))
        elif choice == 9:
            made += b"\x10" + _uleb(_any(rng))
        elif choice == 10:
            made += b"\x11" + _sleb(_either(rng))
        elif choice == 11:
            made += b"\x94" + bytes([rng.randrange(10)])
        elif choice == 12:
            made += b"\x15" + bytes([rng.randrange(70)])
        else:
            made += b"\x30\x1b"  # divide by zero
    return made


def instructions(rng: Random) -> bytes:
    """Call frame instructions, DWARF 5, section 6.4.2."""
    made = b""
    if rng.random() < 0.05:
        return b"\x0a" * rng.choice((63, 64, 65, 5000))
    for _ in range(rng.choice((1, 3, 10, 100))):
        register = rng.choice((3, 6, 7, 12, 16, 17, 63))
        choice = rng.randrange(15)
        if choice < 4:
            made += b"\x0c" + _uleb(rng.choice((6, 7, 16, 3, 200))) + _uleb(_any(rng) % 4096)
        elif choice == 4:
            made += bytes([0x80 | register]) + _uleb(rng.choice((1, 2, 3, _any(rng))))
        elif choice == 5:
            made += bytes([0x40 | rng.randrange(4)])
        elif choice == 6:
            made += bytes([rng.choice((0x0A, 0x0B))]) * rng.randrange(1, 70)
        elif choice == 7:
            code = expression(rng)
            made += b"\x0f" + _uleb(len(code)) + code
        elif choice == 8:
            code = expression(rng)
            made += bytes([rng.choice((0x10, 0x16))]) + _uleb(register) + _uleb(len(code)) + code
        elif choice == 9:  # a register that is in another, and so on
            made += b"\x09" + _uleb(register) + _uleb(rng.choice((3, 6, 7, 12, 16, register)))
        elif choice == 10:
            made += bytes([rng.choice((0x05, 0x14))]) + _uleb(register) + _uleb(_any(rng))
        elif choice == 11:
            made += bytes([rng.choice((0x11, 0x15))]) + _uleb(register) + _sleb(_either(rng))
        elif choice == 12:
            made += bytes([rng.choice((0x07, 0x08, 0x06))]) + _uleb(register)
        elif choice == 13:
            made += b"\x13" + _sleb(_either(rng))
        else:
            made += bytes([0xC0 | register])
    return made


def _entry(body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    return struct.pack("<I", len(body)) + body


def _frames(rng: Random) -> bytes:
    data = bytearray()
    cies = []
    for _ in range(rng.randrange(1, 4)):
        cies.append(len(data))
        augmentation = rng.choice((b"zR", b"zR", b"zR", b"zRS", b"zPLR", b"z"))
        content = {b"zPLR": b"\x9b\0\0\0\0\x1b\x03", b"z": b""}.get(augmentation, b"\x03")
        alignment = _sleb(rng.choice((-8, -8, -8, 8, 0, -(1 << 63))))
        start = rng.choice((b"\x0c\7\x08\x90\1", b"", instructions(rng)))
        head = (
            struct.pack("<I", 0)
            + b"\1"
            + augmentation
            + b"\0"
            + _uleb(rng.choice((1, 1, 0, _any(rng))))
        )
        head += alignment + bytes([rng.choice((16, 16, 16, 3, 255))])
        data += _entry(head + _uleb(len(content)) + content + start)
    for begin in range(_TEXT, _TEXT + _CODE, _FUNCTION):
        head = struct.pack("<III", len(data) + 4 - rng.choice(cies), begin, _FUNCTION)
        data += _entry(head + b"\0" + instructions(rng))
    return bytes(data) + bytes(4)


def walk_made_up(path: Path, seed: int) -> str:
    """Walk some stacks of a program whose call frame information is made up."""
    rng = Random(seed)
    write_program(path, [(".eh_frame", 1, _frames(rng), 0)])
    image = Image(FileSource(str(path), "made up"), "made up")
    end = VirtAddr(_BIAS + _TEXT + _CODE)
    module = Module("/made/up", image, _BIAS, VirtAddr(_BIAS), end, is_main=True)
    cuts = set()
    for _ in range(8):
        read = words(rng, _BIAS + _TEXT, end)
        unwinder = Unwinder(lambda address: module if module.contains(address) else None, read)
        registers = SimpleNamespace(
            **{name: rng.getrandbits(64) for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi")},
            **{f"r{number}": _STACK + 8 * rng.randrange(1024) for number in range(8, 16)},
            rip=_BIAS + _TEXT + rng.randrange(_CODE),
            rsp=_STACK + rng.randrange(64) * 8,
            rbp=_STACK + rng.randrange(128) * 8,
        )
        stack = unwinder.walk(registers, 128)
        assert 1 <= len(stack) <= 128
        for frame in stack:
            assert 0 <= frame.address < 1 << 64, frame
        cuts.add((stack.cut or "whole").partition(":")[0].partition(" 0x")[0])
    for _ in range(50):
        try:
            result = evaluate(expression(rng), (1,), lambda n: n << 60, lambda a, s: a >> s, _BIAS)
            assert 0 <= result < 1 << 64
        except Malformed:
            pass
    return "; ".join(sorted(cuts))
