"""Call frame information that lies: it costs its stack, and nothing else."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.symbols.image import image_from_bytes
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.unwind import Frame, Stack, Unwinder, walker
from ptrace_uprobes.unwind.cursor import Cursor, Malformed
from ptrace_uprobes.unwind.expression import evaluate
from ptrace_uprobes.unwind.history import CONVENTIONS
from ptrace_uprobes.unwind.row import Kind, Row, row_of
from tests.support.build import build_target
from tests.unit.unwind.synthetic import CIE, Memory, entries, fde, section

_BIAS = 0x7F0000000000
_STACK = 0x7FFF00000000


def _row_at(data: bytes, at: int, address: int) -> object:
    return row_of(entries(data).fde(at), address)


def test_a_true_entry_is_read() -> None:
    # DW_CFA_advance_loc 1, DW_CFA_def_cfa_offset 16
    data = section(CIE, fde(len(CIE), 0x1000, 0x10, b"\x41\x0e\x10"))
    assert list(entries(data).ranges()) == [(0x1000, 0x1010, len(CIE))]
    first, second = (row_of(entries(data).fde(len(CIE)), 0x1000 + n) for n in (0, 1))
    assert (first.cfa_register, first.cfa_offset) == (7, 8)
    assert (second.cfa_register, second.cfa_offset) == (7, 16)


@pytest.mark.parametrize(
    ("instructions", "why"),
    [
        (b"\x0b", "restores a state"),
        (b"\x0a" * 1000, "saves too many"),
        (b"\x0e" + b"\xff" * 40, "has no end"),
        (b"\x0f\x7f", "cut short"),
        (b"\x0f\xff\x7f", "is too long"),
        (b"\x3f\1", "unknown call frame instruction"),
        (b"\x05\xff\xff\x03\1", "for register"),
        (b"\x00" * 60_000, "too long"),
    ],
)
def test_instructions_that_lie_are_refused_in_a_few_words(instructions: bytes, why: str) -> None:
    data = section(CIE, fde(len(CIE), 0x1000, 0x10, instructions))
    with pytest.raises(Malformed, match=why):
        _row_at(data, len(CIE), 0x1008)


def test_a_length_beyond_the_section_is_refused() -> None:
    data = bytearray(section(CIE, fde(len(CIE), 0x1000, 0x10, b"")))
    data[len(CIE) : len(CIE) + 4] = b"\xf0\xff\xff\x7f"
    assert list(entries(bytes(data)).ranges()) == []
    with pytest.raises(Malformed):
        entries(bytes(data)).fde(len(CIE))


def test_an_entry_that_is_its_own_cie_is_refused() -> None:
    at = len(CIE)
    data = section(CIE, fde(at, 0x1000, 0x10, b"", cie_at=at))
    with pytest.raises(Malformed):
        entries(data).fde(at)


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\x2f\xfd\xff",  # skip to itself
        b"\x12",  # dup of nothing
        b"\x30" * 200,
        b"\x30\x31\x17",  # rot of two
        b"\x30\x30\x1b",  # 0 / 0
        b"\x03\1",
        b"\x2f\xff\x7f",
        b"\xff",
    ],
)
def test_expressions_that_lie_end_in_a_reason(code: bytes) -> None:
    with pytest.raises(Malformed):
        evaluate(code, (), lambda _: 0, lambda _address, _size: 0, 0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_expression_gives_a_number_or_a_reason(code: bytes) -> None:
    try:
        result = evaluate(code, (1, 2), lambda number: number, lambda address, _: address, 0)
    except Malformed:
        return
    assert 0 <= result < 1 << 64


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 255), st.integers(0, 100))
def test_any_pointer_is_read_or_refused(data: bytes, encoding: int, at: int) -> None:
    try:
        assert 0 <= Cursor(data, at).pointer(encoding, 0x1000, 0x2000) < 1 << 64
    except Malformed:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 79), st.booleans())
def test_any_bytes_are_entries_or_refused(tail: bytes, at: int, is_eh: bool) -> None:
    made = entries(CIE + tail, is_eh=is_eh)
    for begin, _, place in made.ranges():
        try:
            row_of(made.fde(place), begin)
        except Malformed:
            pass
    try:
        made.fde(at)
    except Malformed:
        pass


class _Noise:
    """A stack of random words, half of them addresses in the module's code."""

    def __init__(self, seed: int, low: int, high: int) -> None:
        generator = random.Random(seed)
        words = []
        for number in range(2048):
            choice = generator.random()
            if choice < 0.5:
                words.append(generator.randrange(low, high))
            elif choice < 0.9:
                words.append(_STACK + generator.randrange(number, 2048) * 8)
            else:
                words.append(generator.getrandbits(64))
        self._data = b"".join(word.to_bytes(8, "little") for word in words)

    def read(self, address: int, size: int) -> bytes:
        offset = address - _STACK
        return self._data[offset : offset + size] if 0 <= offset < len(self._data) else b""


def _walk_through(data: bytes, seed: int) -> Stack:
    generator = random.Random(seed)
    image = image_from_bytes(data, "hostile")
    low = min(s.address for s in image.segments if s.is_executable)
    high = max(s.address + s.memory_size for s in image.segments if s.is_executable)
    end = max(s.address + s.memory_size for s in image.segments)
    module = Module("/hostile", image, _BIAS, VirtAddr(_BIAS), VirtAddr(_BIAS + end), is_main=True)
    noise = _Noise(seed, _BIAS + low, _BIAS + high)
    names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
    registers = SimpleNamespace(**{name: generator.getrandbits(64) for name in names})
    registers.rip = generator.randrange(_BIAS + low, _BIAS + high)
    registers.rsp = _STACK + generator.randrange(64) * 8
    registers.rbp = _STACK + generator.randrange(128) * 8
    unwinder = Unwinder(lambda address: module if module.contains(address) else None, noise.read)
    return unwinder.walk(registers, 128)


def test_a_file_with_damaged_frames_costs_its_stacks_only() -> None:
    path = build_target("stacks.c", "-O2", "-fomit-frame-pointer")
    original = path.read_bytes()
    frames = image_from_bytes(original, "original").call_frames
    assert frames.eh_frame is not None
    assert frames.index is not None
    cuts = set()
    started = time.monotonic()
    for seed in range(300):
        generator = random.Random(seed)
        data = bytearray(original)
        for place in (frames.eh_frame, frames.index)[: 1 + seed % 2]:
            for _ in range(generator.randrange(1, 200)):
                at = place.offset + generator.randrange(place.size)
                data[at] = generator.choice((0, 0xFF, 0x7F, 0x80, generator.randrange(256)))
        stack = _walk_through(bytes(data), seed)
        assert 1 <= len(stack) <= 128
        cuts.add((stack.cut or "").partition(" for ")[0])
    assert len(cuts) > 3
    assert time.monotonic() - started < 60


def test_frames_that_go_round_end() -> None:
    """A trampoline whose saved registers are itself: each signal frame leads to the next."""
    trampoline = b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05"  # mov $15, %rax; syscall
    saved = bytearray(256)
    saved[160:168] = _STACK.to_bytes(8, "little")
    saved[168:176] = (0x5000).to_bytes(8, "little")

    def read(address: int, size: int) -> bytes:
        for base, data in ((0x5000, trampoline), (_STACK, bytes(saved))):
            if base <= address < base + len(data):
                return data[address - base : address - base + size]
        return b""

    registers = SimpleNamespace(rip=0x5000, rsp=_STACK, rbp=0)
    stack = Unwinder(lambda _: None, read).walk(registers)
    assert stack.cut == "the stack is a loop"
    assert len(stack) < 4
    assert all(frame.is_signal for frame in stack)


@pytest.mark.parametrize(("name", "why"), [("__morestack", "a loop"), ("morestack", "below")])
def test_only_a_function_that_switches_stacks_may_go_down_and_not_round(
    name: str, why: str
) -> None:
    """Its CFA is RBP + 16, and RBP leads to itself."""
    row = Row(6, 16, None, {16: (Kind.OFFSET, -8, b""), 6: (Kind.OFFSET, -16, b"")}, 16, False)
    memory = Memory(_STACK, [_STACK, 0x5000])
    step = walker._step_of(row, Frame(0x5000, f"{name}+0x73", "made"), 0, CONVENTIONS[62])
    unwinder = Unwinder(lambda _: None, memory.read)
    for known in unwinder._known:
        known[0x5000] = step
    stack = unwinder.walk(SimpleNamespace(rip=0x5000, rsp=_STACK + 0x1000, rbp=_STACK))
    assert why in (stack.cut or "")
    assert len(stack) <= 4
