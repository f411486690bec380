"""States to begin from, made of a seed: registers, memory, and what XSAVE saves."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from fuzz.harness import (
    ARENA,
    DATA,
    MEMORIES,
    PAGE,
    REGISTERS,
    SITE,
    STACK,
    XSTATES,
    Harness,
)
from fuzz.mode import Mode
from ptrace_uprobes.errors import MemoryFault

__all__ = ["HARDWARE_ORDER", "Pools", "Thread", "code_address", "some_value"]

MASK: Final = (1 << 64) - 1
HARDWARE_ORDER: Final = tuple(
    REGISTERS.index(name)
    for name in (
        *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
        *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    )
)
"""Index into `REGISTERS` by a register's number in machine code."""
_SMALL: Final = (0, 1, 2, 3, 4, 5, 7, 8, 0x7F, 0x80, 0xFF, 1 << 15, 1 << 31, 1 << 32, 1 << 63)
_FCW_ALL_MASKED: Final = 0x37F
_MXCSR_ALL_MASKED: Final = 0x1F80


def code_address(source: random.Random, base: int) -> int:
    """Where an int3 stands, and nothing else is ever put."""
    return base + SITE + 0x8000 + source.randrange(0, 0x4000, 16)


def some_value(source: random.Random, base: int, mode: Mode) -> int:
    """A register's or a word's value that instructions can do something with."""
    return _some_value(source, base) & mode.mask


def _some_value(source: random.Random, base: int) -> int:
    kind = source.randrange(10)
    if kind < 3:
        return base + DATA + source.randrange(0, PAGE, 8)
    if kind == 3:
        # Across an edge: of what can be written, and of what there is.
        return base + DATA + source.choice((0, PAGE, 2 * PAGE)) + source.randrange(-70, 70)
    if kind == 4:
        return base + STACK + source.randrange(0, PAGE, 8)
    if kind == 5:
        return code_address(source, base)
    if kind == 6:
        return source.choice(_SMALL)
    if kind == 7:
        return -source.randrange(1, 200) & MASK
    return source.getrandbits(32 if kind == 8 else 64)


def _words(source: random.Random, base: int, size: int, mode: Mode) -> bytes:
    return b"".join(
        (
            code_address(source, base) if source.random() < 0.6 else some_value(source, base, mode)
        ).to_bytes(mode.word, "little")
        for _ in range(size // mode.word)
    )


def _lanes(source: random.Random, size: int) -> bytes:
    """Numbers of some width, whole or floating: small, huge, denormal, not a number."""
    kind = source.randrange(6)
    if kind == 0:
        return bytes(size)
    if kind == 1:  # small, as indices of a gather
        width = source.choice((4, 8))
        return b"".join(
            source.randrange(0, 512).to_bytes(width, "little") for _ in range(size // width)
        )
    if kind == 2:
        patterns = (0x3F800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 1, 0x80000000)
        return b"".join(source.choice(patterns).to_bytes(4, "little") for _ in range(size // 4))
    if kind == 3:
        doubles = (0x3FF << 52, 0x7FF << 52, 0x7FF8 << 48, (0x7FF << 52) + 1, 1, 1 << 63)
        return b"".join(source.choice(doubles).to_bytes(8, "little") for _ in range(size // 8))
    return source.randbytes(size)


def _xstate(source: random.Random, harness: Harness, plain: bool) -> bytes:
    """An XSAVE area in the standard format (SDM volume 1, 13.4)."""
    area = bytearray(harness.template)
    size = len(area)
    fcw = _FCW_ALL_MASKED
    fsw = source.randrange(8) << 11  # TOP
    mxcsr = _MXCSR_ALL_MASKED
    if not plain:
        fcw = 0x40 | source.getrandbits(6) | source.randrange(16) << 8
        fsw |= source.getrandbits(16) & 0x473F
        mxcsr = source.getrandbits(16)
    area[0:2] = fcw.to_bytes(2, "little")
    area[2:4] = fsw.to_bytes(2, "little")
    area[4] = source.choice((0, 0xFF, source.getrandbits(8)))
    area[6:8] = source.getrandbits(11).to_bytes(2, "little")
    area[8:16] = (harness.mode.bases[0] + SITE + source.randrange(ARENA)).to_bytes(8, "little")
    area[16:24] = (harness.mode.bases[0] + DATA + source.randrange(PAGE)).to_bytes(8, "little")
    area[24:28] = mxcsr.to_bytes(4, "little")
    for number in range(8):
        at = 32 + 16 * number
        exponent = source.choice((0x3FFF, 0x4001, 0, 0x7FFF, source.getrandbits(16)))
        significand = source.choice((1 << 63, 3 << 62, source.getrandbits(64)))
        area[at : at + 10] = significand.to_bytes(8, "little") + exponent.to_bytes(2, "little")
    for at in range(160, 416, 64):
        area[at : at + 64] = _lanes(source, 64)
    for number, (offset, length) in harness.components.items():
        # AVX, opmasks, ZMM: not PKRU, which would close the memory, nor what is unknown here.
        if number not in (2, 5, 6, 7) or offset + length > size:
            continue
        content = _lanes(source, length)
        if number == 5:
            masks = (0, MASK, 0xFF, 1, source.getrandbits(64), 0x5555)
            content = b"".join(source.choice(masks).to_bytes(8, "little") for _ in range(8))
        area[offset : offset + length] = content
    saved = 3 | sum(1 << number for number in harness.components if number in (2, 5, 6, 7))
    area[512:520] = (saved | (harness.features & 1 << 9)).to_bytes(8, "little")
    return bytes(area)


class Pools:
    """What all runs choose from, the same in every campaign; it is put into the harness."""

    def __init__(self, harness: Harness) -> None:
        source = random.Random("pools")
        self.memories = [
            [_words(source, base, 3 * PAGE, harness.mode) for base in harness.mode.all_bases]
            for _ in range(MEMORIES)
        ]
        for index, memory in enumerate(self.memories):
            for base, content in enumerate(memory):
                harness.set_memory(index, base, content)
        for index in range(XSTATES):
            harness.set_xstate(index, _xstate(source, harness, plain=index % 4 != 0))


class Thread:
    """A thread about to execute: the planner's `Registers` and `TraceeMemory`; mutable."""

    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rdi: int
    rsi: int
    rbp: int
    rbx: int
    rdx: int
    rax: int
    rcx: int
    rsp: int
    rip: int
    eflags: int

    def __init__(
        self,
        general: Sequence[int],
        fs_base: int,
        gs_base: int,
        base: int,
        memory: bytes,
        site: bytes,
    ) -> None:
        for name, value in zip(REGISTERS, general, strict=True):
            setattr(self, name, value)
        self.fs_base = fs_base
        self.gs_base = gs_base
        self._base = base
        self._site = (self.rip, site)
        self.data = bytearray(memory[: 2 * PAGE])
        self.stack = bytearray(memory[2 * PAGE :])

    def general(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in REGISTERS)

    def read(self, address: int, size: int) -> bytes:
        for start, content in (
            (self._base + DATA, self.data),
            (self._base + STACK, self.stack),
        ):
            if start <= address and address + size <= start + len(content):
                return bytes(content[address - start : address - start + size])
        if self._base + SITE <= address and address + size <= self._base + SITE + ARENA:
            code = bytearray(b"\xcc" * size)
            at, site = self._site
            for offset in range(size):
                if at <= address + offset < at + len(site):
                    code[offset] = site[address + offset - at]
            return bytes(code)
        raise MemoryFault(address, size)

    def write(self, address: int, data: bytes) -> None:
        for start, content, size in (
            (self._base + DATA, self.data, PAGE),
            (self._base + STACK, self.stack, PAGE),
        ):
            if start <= address and address + len(data) <= start + size:
                content[address - start : address - start + len(data)] = data
                return
        raise MemoryFault(address, len(data))
