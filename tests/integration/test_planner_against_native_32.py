"""In 32-bit mode, too, an instruction leaves the same state in place and through its plans.

The runner is a 64-bit process, whose code at a site and in a slot runs under the selector of
32-bit code: all the addresses of its arenas are below 4 GiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import I386
from ptrace_uprobes.decoder import Instruction, decode
from ptrace_uprobes.ssol.plan import Mechanism
from tests.support import native_check
from tests.support.native import (
    BASES,
    DATA,
    SITE,
    SLOT,
    STACK,
    WINDOW,
    Machine,
    NativeRunner,
    runner_for,
)
from tests.support.native_check import machine_at
from tests.support.opcodes import every_opcode
from tests.support.opcodes_32 import (
    every_legacy_opcode_32,
    is_left_out_32,
    some_vector_opcodes_32,
)

LOW, HIGH = BASES[0], BASES[1]
"""Two GiB apart: what wraps at 4 GiB does so between them."""


@pytest.fixture(scope="module")
def native() -> Iterator[NativeRunner]:
    with runner_for(I386) as runner:
        yield runner


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


machines = st.builds(
    machine_at,
    st.integers(0, 1 << 32),
    st.sampled_from((LOW, HIGH)),
    st.sampled_from((0x100, 0x101, 0x1FF3)),
    st.just(I386),
)
slot_bases = st.sampled_from((LOW, HIGH))


def check(native: NativeRunner, machine: Machine, code: bytes, base: int) -> Mechanism:
    note(f"{code.hex(' ')} at {machine.rip:#x}, slot near {base:#x}")
    return native_check.check(native, machine, code, SLOT + 0x40, base=base).mechanism


# --- every opcode -------------------------------------------------------------------------


def _in_data(machine: Machine, instruction: Instruction) -> bytes:
    """An absolute operand of 32 bits is put into the data."""
    encoding, code = instruction.encoding, instruction.code
    if encoding.modrm & 0xC7 != 0x05 or encoding.displacement_size != 4:
        return code
    start = encoding.displacement_offset
    target = machine.base + DATA + 1024
    return code[:start] + target.to_bytes(4, "little") + code[start + 4 :]


def _check_all(native: NativeRunner, windows: Iterable[bytes]) -> int:
    machine = machine_at(7, LOW, 0x140, I386)
    machine.rax = machine.base + DATA + 512  # (%eax) is in the data
    seen: set[bytes] = set()
    for window in windows:
        instruction = decode(window, VirtAddr(machine.rip), I386)
        if instruction is None or instruction.code in seen:
            continue
        seen.add(instruction.code)
        if not is_left_out_32(instruction.encoding):
            native_check.check(native, machine, _in_data(machine, instruction), SLOT + 0x40)
    return len(seen)


def test_every_legacy_opcode_leaves_the_same_state(native: NativeRunner) -> None:
    assert _check_all(native, every_legacy_opcode_32((0x05, 0xD1), (b"",))) > 1000


@pytest.mark.parametrize("prefix", ["66", "67"])
def test_every_one_byte_opcode_leaves_the_same_state_under_a_prefix(
    native: NativeRunner, prefix: str
) -> None:
    windows = every_legacy_opcode_32((0x00, 0x46), (bytes.fromhex(prefix),))
    one_byte = (window for window in windows if window[1] != 0x0F)
    assert _check_all(native, one_byte) > 300


def test_vector_opcodes_share_theirs_with_les_lds_and_bound(native: NativeRunner) -> None:
    assert _check_all(native, some_vector_opcodes_32((0xD1,))) > 200
    plain = [bytes([opcode, modrm, 0x10, 0, 0, 0, 0]) for opcode in (0xC4, 0xC5, 0x62)
             for modrm in (0x00, 0x08, 0x48, 0x80, 0x05)]  # fmt: skip
    assert _check_all(native, plain) == len(plain)


@pytest.mark.soak
@pytest.mark.parametrize("prefix", ["", "66", "67", "f2", "f3", "f0", "2e", "65", "6667", "6567"])
def test_every_opcode_with_every_prefix_leaves_the_same_state(
    native: NativeRunner, prefix: str
) -> None:
    windows = every_legacy_opcode_32((0x05, 0x00, 0x44, 0x86, 0xD1), (bytes.fromhex(prefix),))
    assert _check_all(native, windows) > (100 if prefix == "f0" else 1000)  # few can be locked
    if not prefix:
        assert _check_all(native, every_opcode((0x05, 0x44, 0xD1), (b"",))) > 1000


# --- any bytes ----------------------------------------------------------------------------


@st.composite
def operands(draw: st.DrawFn, machine: Machine) -> bytes:
    """ModRM with reg 0, SIB and displacement; for 16-bit forms as good as any."""
    mode, rm = draw(st.sampled_from((0, 0, 1, 2, 3))), draw(st.integers(0, 7))
    sib = bytes([draw(st.integers(0, 255))]) if rm == 4 and mode != 3 else b""
    if mode == 0 and (rm == 5 or (sib and sib[0] & 7 == 5)):
        place = machine.base + DATA + draw(st.integers(0, WINDOW - 64))
        return bytes([rm]) + sib + place.to_bytes(4, "little")
    if mode == 1:
        return bytes([0x40 | rm]) + sib + draw(st.binary(min_size=1, max_size=1))
    if mode == 2:
        offset = draw(st.integers(-300, 1000))
        return bytes([0x80 | rm]) + sib + offset.to_bytes(4, "little", signed=True)
    return bytes([mode << 6 | rm]) + sib


_PREFIXES = (
    b"",
    b"",
    b"",
    b"\x66",
    b"\x67",
    b"\xf2",
    b"\xf3",
    b"\xf0",
    b"\x65",
    b"\x3e",
    b"\x65\x67",
)


@st.composite
def instructions(draw: st.DrawFn, machine: Machine) -> bytes:
    opcode = draw(
        st.one_of(
            st.integers(0, 255).map(lambda op: bytes([op])),
            st.integers(0, 255).map(lambda op: bytes([0x0F, op])),
        )
    )
    operand = draw(operands(machine))
    operand = bytes([operand[0] | draw(st.integers(0, 7)) << 3]) + operand[1:]
    immediate = draw(st.binary(min_size=4, max_size=4))
    return draw(st.sampled_from(_PREFIXES)) + opcode + operand + immediate


@given(machines, slot_bases, st.data())
@examples(150)
def test_whatever_is_planned_leaves_the_same_state(
    native: NativeRunner, machine: Machine, base: int, data: st.DataObject
) -> None:
    code = data.draw(instructions(machine))
    instruction = decode(code, VirtAddr(machine.rip), I386)
    assume(instruction is not None)
    assert instruction is not None
    assume(not is_left_out_32(instruction.encoding))
    check(native, machine, instruction.code, base)


# --- control transfers ----------------------------------------------------------------------


@st.composite
def relative_branches(draw: st.DrawFn, machine: Machine) -> bytes:
    head = draw(st.sampled_from((b"", b"", b"\x2e", b"\x3e", b"\xf2", b"\x67"))) + draw(
        st.one_of(
            st.integers(0x70, 0x7F).map(lambda op: bytes([op])),
            st.integers(0x80, 0x8F).map(lambda op: bytes([0x0F, op])),
            st.sampled_from((b"\xe0", b"\xe1", b"\xe2", b"\xe3", b"\xeb", b"\xe9", b"\xe8")),
        )
    )
    if head[-1] in (0xE8, 0xE9) or 0x0F in head:
        # Landing pads here and 2 GiB away, and where there is none.
        pad = draw(st.sampled_from((LOW, HIGH))) + SITE + draw(st.integers(0x2000, 0xFF00))
        target = draw(st.sampled_from((pad, pad, pad, 0x1000, 0xFFFF_FFF0)))
        distance = (target - machine.rip - len(head) - 4) & 0xFFFF_FFFF
        return head + distance.to_bytes(4, "little")
    # Not into the instruction itself: it would loop.
    short = draw(st.one_of(st.integers(0, 127), st.integers(-128, -8)))
    return head + short.to_bytes(1, "little", signed=True)


@given(machines, slot_bases, st.data())
@examples(100)
def test_relative_branches_go_where_they_went(
    native: NativeRunner, machine: Machine, base: int, data: st.DataObject
) -> None:
    check(native, machine, data.draw(relative_branches(machine)), base)


@st.composite
def indirect_branches(draw: st.DrawFn, machine: Machine) -> bytes:
    kind = draw(st.sampled_from(("call", "call", "jump", "return", "stack")))
    if kind == "return":
        released = draw(st.binary(min_size=2, max_size=2))
        return draw(st.sampled_from((b"\xc3", b"\xf3\xc3", b"\xf2\xc3", b"\xc2" + released)))
    if kind == "stack":
        # call *d(%esp): among them operands in the word that the push writes, and beside it.
        displacement = draw(st.integers(-12, 0x40))
        return b"\xff\x54\x24" + displacement.to_bytes(1, "little", signed=True)
    prefixes = (b"", b"", b"\x3e", b"\xf2", b"\x67", b"\x65", b"\x65\x67", b"\x65\x3e", b"\x3e\x65")
    operand = draw(operands(machine))
    reg = 0x20 if kind == "jump" else 0x10
    code = draw(st.sampled_from(prefixes)) + b"\xff" + bytes([operand[0] | reg]) + operand[1:]
    instruction = decode(code.ljust(15, b"\0"), VirtAddr(machine.rip), I386)
    assert instruction is not None
    return instruction.code


@given(machines, slot_bases, st.data())
@examples(150)
def test_indirect_branches_go_where_they_went(
    native: NativeRunner, machine: Machine, base: int, data: st.DataObject
) -> None:
    machine.gs_base = machine.base + STACK if data.draw(st.booleans()) else machine.gs_base
    check(native, machine, data.draw(indirect_branches(machine)), base)


# --- the rest -------------------------------------------------------------------------------


@given(machines, slot_bases, st.sampled_from(("9c", "9d", "669c", "669d")))
@examples(30)
def test_flags_are_pushed_and_popped_as_without_us(
    native: NativeRunner, machine: Machine, base: int, code: str
) -> None:
    # Not TF, which would trap, nor AC, under which the runner's own C code faults.
    mask = 0x20_0CD5
    machine.stack = b"".join(
        (int.from_bytes(machine.stack[at : at + 4], "little") & mask).to_bytes(4, "little")
        for at in range(0, WINDOW, 4)
    )
    machine.rsp &= ~3
    check(native, machine, bytes.fromhex(code), base)


@given(machines, slot_bases, st.sampled_from((20, 24, 9999)))
@examples(20)
def test_a_system_call_returns_behind_itself(
    native: NativeRunner, machine: Machine, base: int, number: int
) -> None:
    machine.rax = number  # getpid, getuid, and none
    assert check(native, machine, b"\xcd\x80", base) is Mechanism.BOOST


@pytest.mark.parametrize("code", ["07", "17", "1f", "0fa9", "8ed8", "8ec0", "8ed0", "8ee8"])
@given(machine=machines, base=slot_bases, selector=st.sampled_from((0x2B, 0x2B, 0, 0x33, 0x1234)))
@examples(8)
def test_segment_registers_are_loaded_or_the_same_fault_is_met(
    native: NativeRunner, machine: Machine, base: int, code: str, selector: int
) -> None:
    machine.rax = selector
    machine.rsp = machine.base + STACK + 2048
    machine.stack = selector.to_bytes(4, "little") * (WINDOW // 4)
    check(native, machine, bytes.fromhex(code), base)


@given(machine=machines, base=slot_bases, overflow=st.booleans())
@examples(10)
def test_into_traps_behind_itself_if_there_was_an_overflow(
    native: NativeRunner, machine: Machine, base: int, overflow: bool
) -> None:
    machine.eflags = machine.eflags & ~0x800 | overflow << 11
    assert check(native, machine, b"\xce", base) is Mechanism.BOOST


@given(machine=machines, base=slot_bases, address=st.sampled_from((0, 2, 4, WINDOW - 2, WINDOW)))
@examples(20)
def test_the_stacks_edges_are_met_alike(
    native: NativeRunner, machine: Machine, base: int, address: int
) -> None:
    machine.rsp = machine.base + STACK + address
    for code in ("55", "5d", "60", "61", "c3", "c9", "e800100000", "ff0510000000", "6a01", "ffd4"):
        check(native, machine, bytes.fromhex(code), base)
