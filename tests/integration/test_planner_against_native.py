"""An instruction run in place and run through each of its plans leaves the same state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.support import native_check
from tests.support.native import BASES, DATA, FAR_BASE, SITE, SLOT, WINDOW, Machine, NativeRunner
from tests.support.native_check import machine_at
from tests.support.x86_assembler import (
    Absolute,
    Based,
    Operand,
    Register,
    RipRelative,
    legacy,
    vector,
)

Case = tuple[Machine, bytes, int]
"""A state, the instruction at its RIP, and how far from the base the slot is."""


@pytest.fixture(scope="module")
def native() -> Iterator[NativeRunner]:
    with NativeRunner() as runner:
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
    st.sampled_from(BASES),
    st.sampled_from((0x100, 0x101, 0x1FF3)),
)
slot_distances = st.sampled_from((SLOT + 0x40, SLOT + 0xFF01))


def check(
    native: NativeRunner, machine: Machine, code: bytes, distance: int, *, base: int | None = None
) -> None:
    note(f"{code.hex(' ')} at {machine.rip:#x}, slot {distance:#x}")
    native_check.check(native, machine, code, distance, base=base)


# --- instructions -------------------------------------------------------------------------

numbers = st.integers(0, 15)


@st.composite
def memory_operands(draw: st.DrawFn, base: int) -> Operand:
    """Any addressing form; many reach the data or the stack, some nothing."""
    target = base + DATA + draw(st.integers(0, WINDOW - 64))
    kind = draw(st.sampled_from(("rip", "rip", "stack", "based", "indexed", "absolute")))
    displacement = draw(st.sampled_from((0, 1, 8, -8, 64, -120, 0x7F, 0x80, -0x81, 1000)))
    if kind == "rip":
        return RipRelative(target)
    if kind == "stack":
        return Based(4, displacement=displacement)
    if kind == "based":
        return Based(draw(numbers), displacement=displacement)
    if kind == "indexed":
        index = draw(numbers.filter(lambda number: number != 4))
        return Based(draw(numbers), index, draw(st.integers(0, 3)), displacement)
    return Absolute(target if target < 1 << 31 else 0x1234)


def operands(base: int) -> st.SearchStrategy[Operand]:
    return st.one_of(memory_operands(base), st.builds(Register, numbers))


_ARITHMETIC = [base + low for base in range(0, 0x40, 8) for low in range(4)]
_ONE_BYTE = (*_ARITHMETIC, 0x63, *range(0x84, 0x8E), 0x8F, *range(0xD0, 0xD4), 0xFE)
_ONE_BYTE_IMM8 = (0x6B, 0x80, 0x83, 0xC0, 0xC1, 0xC6)
_ONE_BYTE_IMM32 = (0x69, 0x81, 0xC7)
_TWO_BYTE = (
    *(0x0D, *range(0x10, 0x18), 0x1F, *range(0x28, 0x30), *range(0x40, 0x6D), 0x6E, 0x6F),
    *(0x74, 0x75, 0x76, 0x7C, 0x7D, 0x7E, 0x7F, *range(0x90, 0xA0), 0xA3, 0xA5, 0xAB, 0xAD),
    *(0xAF, 0xB0, 0xB1, 0xB3, *range(0xB6, 0xBA), *range(0xBB, 0xC2), 0xC3),
    *range(0xD0, 0x100),
)
_TWO_BYTE_IMM8 = (0x70, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6)
_PREFIXES = (b"", b"", b"", b"\x66", b"\xf2", b"\xf3", b"\x67", b"\x65", b"\xf0", b"\x2e\x66")


@st.composite
def verbatim(draw: st.DrawFn, machine: Machine) -> bytes:
    """What is copied, with or without a RIP-relative operand to mend."""
    opcode, immediate = draw(
        st.one_of(
            st.sampled_from(_ONE_BYTE).map(lambda op: (bytes([op]), 0)),
            st.sampled_from(_ONE_BYTE_IMM8).map(lambda op: (bytes([op]), 1)),
            st.sampled_from(_ONE_BYTE_IMM32).map(lambda op: (bytes([op]), 4)),
            st.sampled_from(_TWO_BYTE).map(lambda op: (bytes([0x0F, op]), 0)),
            st.sampled_from(_TWO_BYTE_IMM8).map(lambda op: (bytes([0x0F, op]), 1)),
            st.sampled_from((0x00, 0x1C, 0x20, 0x40, 0xDC, 0xF0, 0xF1, 0xF6)).map(
                lambda op: (bytes([0x0F, 0x38, op]), 0)
            ),
            st.sampled_from((0x08, 0x0F, 0x14, 0x16, 0x20, 0x63)).map(
                lambda op: (bytes([0x0F, 0x3A, op]), 1)
            ),
        )
    )
    prefixes = draw(st.sampled_from(_PREFIXES))
    wide = draw(st.booleans())
    if immediate == 4 and b"\x66" in prefixes and not wide:
        immediate = 2
    return legacy(
        opcode,
        draw(numbers),
        draw(operands(machine.base)),
        machine.rip,
        prefixes=prefixes,
        wide=wide,
        immediate=draw(st.binary(min_size=immediate, max_size=immediate)),
    )


@st.composite
def machine_and(draw: st.DrawFn, codes: Callable[[Machine], st.SearchStrategy[bytes]]) -> Case:
    machine = draw(machines)
    return machine, draw(codes(machine)), draw(slot_distances)


@given(machine_and(verbatim))
@examples(300)
def test_copied_instructions_leave_the_same_state(native: NativeRunner, case: Case) -> None:
    machine, code, distance = case
    check(native, machine, code, distance)


_VEX = (
    *((1, pp, opcode, 0) for pp in range(4) for opcode in (0x10, 0x11, 0x51, 0x58, 0x5C, 0x6F)),
    *((1, 1, opcode, 0) for opcode in (0x28, 0x54, 0x57, 0x6E, 0x74, 0x7F, 0xD4, 0xEF, 0xFE)),
    *((1, 1, opcode, 1) for opcode in (0x70, 0xC2, 0xC4, 0xC6)),
    *((2, 1, opcode, 0) for opcode in (0x00, 0x0C, 0x18, 0x36, 0x40, 0x58, 0x8C, 0x8E, 0x98)),
    *((2, pp, opcode, 0) for pp in range(4) for opcode in (0xF2, 0xF3, 0xF5, 0xF6, 0xF7)),
    *((3, 1, opcode, 1) for opcode in (0x04, 0x0F, 0x16, 0x18, 0x19, 0x38, 0x4A, 0x4B)),
    (3, 3, 0xF0, 1),
)
_EVEX = (
    *((1, pp, opcode, 0) for pp in range(4) for opcode in (0x10, 0x11, 0x51, 0x58, 0x6F, 0x7F)),
    *((1, 1, opcode, 1) for opcode in (0x70, 0xC2, 0xC6)),
    *((2, 1, opcode, 0) for opcode in (0x00, 0x18, 0x36, 0x40, 0x58, 0x98)),
    *((3, 1, opcode, 1) for opcode in (0x03, 0x0F, 0x25)),
)


@st.composite
def vectors(draw: st.DrawFn, machine: Machine) -> bytes:
    evex = draw(st.booleans())
    opcode_map, pp, opcode, immediate = draw(st.sampled_from(_EVEX if evex else _VEX))
    return vector(
        opcode_map,
        pp,
        opcode,
        draw(numbers),
        draw(st.sampled_from((0, 0, *range(16)))),
        draw(operands(machine.base)),
        machine.rip,
        wide=draw(st.booleans()),
        length=draw(st.integers(0, 2 if evex else 1)),
        immediate=draw(st.binary(min_size=immediate, max_size=immediate)),
        evex=evex,
    )


@given(machine_and(vectors))
@examples(300)
def test_vector_instructions_leave_the_same_state(native: NativeRunner, case: Case) -> None:
    check(native, *case)


@st.composite
def unary(draw: st.DrawFn, machine: Machine) -> bytes:
    """F6 and F7: test, not, neg, mul, imul, div, idiv."""
    opcode = draw(st.sampled_from((0xF6, 0xF7)))
    reg = draw(st.integers(0, 7))
    prefixes = draw(st.sampled_from((b"", b"\x66", b"\x67")))
    wide = draw(st.booleans())
    immediate = b""
    if reg < 2:
        size = 1 if opcode == 0xF6 else 2 if b"\x66" in prefixes and not wide else 4
        immediate = draw(st.binary(min_size=size, max_size=size))
    operand = draw(operands(machine.base))
    return legacy(
        bytes([opcode]),
        reg,
        operand,
        machine.rip,
        prefixes=prefixes,
        wide=wide,
        immediate=immediate,
    )


@given(machine_and(unary))
@examples(150)
def test_divisions_leave_the_same_state_or_the_same_fault(native: NativeRunner, case: Case) -> None:
    check(native, *case)


@st.composite
def address_loads(draw: st.DrawFn, machine: Machine) -> bytes:
    return legacy(
        b"\x8d",
        draw(numbers),
        draw(memory_operands(machine.base)),
        machine.rip,
        prefixes=draw(st.sampled_from((b"", b"\x66", b"\x67", b"\x67\x66", b"\x65", b"\xf3"))),
        wide=draw(st.booleans()),
    )


@given(machine_and(address_loads))
@examples(150)
def test_lea_gives_the_same_address(native: NativeRunner, case: Case) -> None:
    check(native, *case)


@st.composite
def stack_instructions(draw: st.DrawFn, machine: Machine) -> bytes:
    prefix = draw(st.sampled_from((b"", b"", b"\x41", b"\x48", b"\x66", b"\x66\x41", b"\x66\x48")))
    kind = draw(st.sampled_from(("register", "register", "immediate", "memory", "frame")))
    if kind == "register":
        return prefix + bytes([draw(st.integers(0x50, 0x5F))])
    if kind == "immediate":
        if draw(st.booleans()):
            return prefix + b"\x6a" + draw(st.binary(min_size=1, max_size=1))
        size = 2 if prefix in (b"\x66", b"\x66\x41") else 4
        return prefix + b"\x68" + draw(st.binary(min_size=size, max_size=size))
    if kind == "frame":
        frame = draw(st.integers(0, 64)).to_bytes(2, "little")
        level = bytes([draw(st.sampled_from((0, 0, 1, 3)))])
        return draw(st.sampled_from((b"\xc9", b"\x66\xc9", b"\xc8" + frame + level)))
    opcode, reg = draw(st.sampled_from(((b"\xff", 6), (b"\x8f", 0))))
    prefixes = draw(st.sampled_from((b"", b"\x66", b"\x67", b"\x65")))
    operand = draw(memory_operands(machine.base))
    return legacy(opcode, reg, operand, machine.rip, prefixes=prefixes)


@given(machine_and(stack_instructions))
@examples(300)
def test_stack_instructions_leave_the_same_state(native: NativeRunner, case: Case) -> None:
    check(native, *case)


@given(machines, slot_distances, st.sampled_from((b"\x9c", b"\x9d", b"\x66\x9c", b"\x66\x9d")))
@examples(80)
def test_flags_are_pushed_and_popped_as_without_us(
    native: NativeRunner, machine: Machine, distance: int, code: bytes
) -> None:
    # Not TF, which would trap, nor AC, under which the runner's own C code faults.
    mask = 0x20_0CD5
    machine.stack = b"".join(
        (int.from_bytes(machine.stack[at : at + 8], "little") & mask).to_bytes(8, "little")
        for at in range(0, WINDOW, 8)
    )
    machine.rsp &= ~7
    check(native, machine, code, distance)


# --- control transfers ----------------------------------------------------------------------


def _pads(machine: Machine) -> st.SearchStrategy[int]:
    """Places where code traps, and some where there is none."""
    near = st.integers(machine.base + SITE + 0x2000, machine.base + SITE + 0xFF00)
    return st.one_of(near, near, st.just(machine.base - 0x1000), st.just(machine.base + DATA + 8))


@st.composite
def relative_branches(draw: st.DrawFn, machine: Machine) -> bytes:
    prefix = draw(st.sampled_from((b"", b"", b"\x2e", b"\x3e", b"\xf2", b"\x48", b"\x67")))
    opcode = draw(
        st.one_of(
            st.integers(0x70, 0x7F).map(lambda op: bytes([op])),
            st.integers(0x80, 0x8F).map(lambda op: bytes([0x0F, op])),
            st.sampled_from(
                (b"\xe0", b"\xe1", b"\xe2", b"\xe3", b"\xe3", b"\xeb", b"\xe9", b"\xe8")
            ),
        )
    )
    head = prefix + opcode
    if opcode[0] in (0x0F, 0xE8, 0xE9):
        distance = draw(_pads(machine)) - machine.rip - len(head) - 4
        return head + (distance & 0xFFFF_FFFF).to_bytes(4, "little")
    # Not into the instruction itself: it would loop.
    distance = draw(st.one_of(st.integers(0, 127), st.integers(-128, -8)))
    return head + distance.to_bytes(1, "little", signed=True)


@given(machine_and(relative_branches))
@examples(300)
def test_relative_branches_go_where_they_went(native: NativeRunner, case: Case) -> None:
    check(native, *case)


@st.composite
def indirect_branches(draw: st.DrawFn, machine: Machine) -> bytes:
    """Calls and jumps by every addressing form, and returns."""
    kind = draw(st.sampled_from(("call", "call", "call", "jump", "return", "stack")))
    prefixes = draw(st.sampled_from((b"", b"", b"\x3e", b"\xf2", b"\x67", b"\x65", b"\x66\x48")))
    if kind == "return":
        released = draw(st.integers(0, 0xFFFF)).to_bytes(2, "little")
        return draw(st.sampled_from((b"\xc3", b"\xf3\xc3", b"\xf2\xc3", b"\xc2" + released)))
    reg = 4 if kind == "jump" else 2
    if kind == "stack":
        # Among them operands in the word that the push writes, and beside it.
        operand: Operand = Based(4, displacement=draw(st.integers(-24, 0x80)))
    else:
        operand = draw(operands(machine.base))
    if prefixes == b"\x66\x48":
        code = legacy(b"\xff", reg, operand, machine.rip, prefixes=b"\x66", wide=True)
    else:
        code = legacy(b"\xff", reg, operand, machine.rip, prefixes=prefixes)
    return code


@given(machine_and(indirect_branches))
@examples(350)
def test_indirect_branches_go_where_they_went(native: NativeRunner, case: Case) -> None:
    check(native, *case)


@given(
    machine_and(
        lambda machine: st.one_of(
            relative_branches(machine),
            indirect_branches(machine),
            verbatim(machine),
            vectors(machine),
            address_loads(machine),
        )
    )
)
@examples(300)
def test_a_slot_out_of_reach_serves_as_well(native: NativeRunner, case: Case) -> None:
    check(native, *case, base=FAR_BASE)


@st.composite
def scratch_users(draw: st.DrawFn, machine: Machine) -> bytes:
    """RIP-relative operands beside the registers that could serve as scratch."""
    target = RipRelative(machine.base + DATA + draw(st.integers(0, WINDOW - 64)))
    reg, vvvv = (
        draw(st.sampled_from((3, 6, 7, 11, 14, 15, 0))),
        draw(st.sampled_from((3, 6, 7, 14))),
    )
    wide = draw(st.booleans())
    if draw(st.booleans()):
        # andn, bzhi, mulx, shlx
        pp, opcode = draw(st.sampled_from(((0, 0xF2), (0, 0xF5), (3, 0xF6), (1, 0xF7))))
        return vector(2, pp, opcode, reg, vvvv, target, machine.rip, wide=wide)
    opcode_bytes = draw(st.sampled_from((b"\x03", b"\x89", b"\x87", b"\x0f\xaf", b"\x0f\xb1")))
    code = legacy(opcode_bytes, reg, target, machine.rip, wide=True)
    # REX.B is void for a RIP-relative operand, and would not be for a register.
    return bytes([code[0] | draw(st.integers(0, 1))]) + code[1:]


@given(machine_and(scratch_users))
@examples(150)
def test_a_scratch_register_is_one_that_the_instruction_does_not_use(
    native: NativeRunner, case: Case
) -> None:
    check(native, *case, base=FAR_BASE)


# --- system calls, faults and the rest --------------------------------------------------------


@given(machines, slot_distances, st.sampled_from((39, 102, 9999)))
@examples(40)
def test_a_system_call_leaves_the_original_return_address(
    native: NativeRunner, machine: Machine, distance: int, number: int
) -> None:
    machine.rax = number
    check(native, machine, b"\x0f\x05", distance)


@given(machines, slot_distances, st.sampled_from((20, 24, 9999)))
@examples(20)
def test_an_i386_system_call_leaves_the_same_state(
    native: NativeRunner, machine: Machine, distance: int, number: int
) -> None:
    machine.rax = number
    check(native, machine, b"\xcd\x80", distance)


_STRING = (0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF, 0x6C, 0x6E)


@st.composite
def string_instructions(draw: st.DrawFn, machine: Machine) -> bytes:
    repeat = draw(st.sampled_from((b"", b"\xf2", b"\xf3", b"\xf3")))
    middle = draw(st.sampled_from((b"", b"\x66", b"\x67", b"\x48", b"\x65")))
    return repeat + middle + bytes([draw(st.sampled_from(_STRING))])


@given(machine_and(string_instructions), st.data())
@examples(200)
def test_string_instructions_leave_the_same_state(
    native: NativeRunner, case: Case, data: st.DataObject
) -> None:
    machine, code, distance = case
    page = machine.base + DATA
    machine.rsi = page + data.draw(st.integers(0, WINDOW - 1))
    machine.rdi = page + data.draw(st.integers(0, WINDOW - 1))
    check(native, machine, code, distance)


_FAULTING = {
    "ud2": "0f0b",
    "ud1 (%rax), %ecx": "0fb908",
    "hlt": "f4",
    "cli": "fa",
    "sti": "fb",
    "in (%dx), %al": "ec",
    "out %eax, $0x80": "e780",
    "int $0x20": "cd20",
    "rdmsr": "0f32",
    "mov %cr0, %rax": "0f20c0",
    "mov %rax, %dr7": "0f23f8",
    "clts": "0f06",
    "wbinvd": "0f09",
    "sysret": "480f07",
    "swapgs": "0f01f8",
    "invlpg (%rip)": "0f013d00000000",
    "xbegin": "c7f800010000",
    "mov %ax, %ss": "8ed0",
    "mov (%rip), %ss": "8e1500100000",
    "lss (%rsp), %eax": "0fb20424",
}


@pytest.mark.parametrize("code", _FAULTING.values(), ids=_FAULTING.keys())
@given(machine=machines, distance=slot_distances)
@examples(4)
def test_what_faults_faults_at_the_original_address(
    native: NativeRunner, machine: Machine, distance: int, code: str
) -> None:
    check(native, machine, bytes.fromhex(code), distance)


@given(machines, slot_distances)
@examples(10)
def test_a_move_to_ss_is_not_disturbed(
    native: NativeRunner, machine: Machine, distance: int
) -> None:
    machine.rax = 0x2B  # __USER_DS of arch/x86/include/asm/segment.h
    check(native, machine, b"\x8e\xd0", distance)


@st.composite
def x87_instructions(draw: st.DrawFn, machine: Machine) -> bytes:
    opcode = bytes([draw(st.integers(0xD8, 0xDF))])
    return legacy(opcode, draw(st.integers(0, 7)), draw(operands(machine.base)), machine.rip)


@given(machine_and(x87_instructions))
@examples(300)
def test_x87_instructions_leave_the_same_state(native: NativeRunner, case: Case) -> None:
    check(native, *case)


@pytest.mark.parametrize(
    "code",
    ["90", "f390", "f30f1efa", "0f1f440000", "660f1f840000000000", "4190", "4890", "66f290"],
)
@given(machine=machines, distance=slot_distances)
@examples(6)
def test_instructions_that_do_little_do_no_more(
    native: NativeRunner, machine: Machine, distance: int, code: str
) -> None:
    check(native, machine, bytes.fromhex(code), distance)


@st.composite
def register_moves(draw: st.DrawFn, machine: Machine) -> bytes:
    """Including those that the tracer can compute."""
    number = draw(numbers)
    same = draw(st.booleans())
    other = Register(number if same else draw(numbers))
    wide = draw(st.booleans())
    kind = draw(st.sampled_from((0x89, 0x8B, 0x31, 0x33, 0xC7, 0xB8)))
    if kind == 0xC7:
        immediate = draw(st.binary(min_size=4, max_size=4))
        return legacy(b"\xc7", 0, other, machine.rip, wide=wide, immediate=immediate)
    if kind == 0xB8:
        size = 8 if wide else 4
        rex = bytes([0x40 | wide << 3 | number >> 3])
        return rex + bytes([0xB8 | number & 7]) + draw(st.binary(min_size=size, max_size=size))
    return legacy(bytes([kind]), number, other, machine.rip, wide=wide)


@given(machine_and(register_moves))
@examples(200)
def test_register_moves_leave_the_same_state(native: NativeRunner, case: Case) -> None:
    check(native, *case)
