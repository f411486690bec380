"""Runs an instruction in place and through each of its plans, and compares what they leave."""

from __future__ import annotations

import random
from signal import SIGBUS, SIGSEGV, SIGTRAP

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.errors import MemoryFault, OutOfReach
from ptrace_uprobes.ssol.plan import Mechanism, Plan, SlotCode, plan, plan_far
from tests.support.native import (
    DATA,
    REGISTERS,
    SITE,
    STACK,
    WINDOW,
    Code,
    Machine,
    NativeRunner,
    Outcome,
)

__all__ = ["check", "machine_at"]

_SI_KERNEL, TRAP_TRACE = 0x80, 2  # si_code of int3's and of a single-step's SIGTRAP
_FLAGS = 0xCD5  # CF PF AF ZF SF DF OF
_ID = 1 << 21
"""No PTRACE_SETREGS sets or clears it (arch/x86/kernel/ptrace.c, FLAG_MASK): once a popf has, the
process that executes what is compared keeps it, and no machine's state knows."""
_MASK = (1 << 64) - 1
_FXSAVE_FIP = slice(8, 16)
_FXSAVE_RESERVED = 416  # the kernel keeps its own words from 464 on


def _value(source: random.Random, base: int, mask: int) -> int:
    """A register's or a word's value that instructions can do something with."""
    return mask & source.choice(
        (
            base + DATA + source.randrange(0, WINDOW, 8),
            base + DATA + source.randrange(WINDOW),
            base + STACK + source.randrange(0, WINDOW, 8),
            base + SITE + 0x8000 + source.randrange(0, 0x4000, 16),
            source.randrange(8),
            -source.randrange(8),
            source.getrandbits(32),
            source.getrandbits(64),
        )
    )


def _words(source: random.Random, base: int, size: int) -> bytes:
    words = []
    for _ in range(WINDOW // size):
        # Mostly code addresses, for returns and indirect branches.
        if source.random() < 0.7:
            value = base + SITE + 0x8000 + source.randrange(0, 0x4000, 16)
        else:
            value = _value(source, base, (1 << 8 * size) - 1)
        words.append(value.to_bytes(size, "little"))
    return b"".join(words)


def machine_at(seed: int, base: int, offset: int, arch: Architecture = X86_64) -> Machine:
    """A random state about to execute at `offset` of the SITE arena of `base`."""
    source = random.Random(seed)
    size = arch.word_size
    mask = (1 << 8 * size) - 1
    data, stack = _words(source, base, size), _words(source, base, size)
    machine = Machine(arch=arch, base=base, data=data, stack=stack)
    for name in REGISTERS:
        setattr(machine, name, _value(source, base, mask))
    machine.rip = base + SITE + offset
    machine.rsp = base + STACK + source.choice((1024, 2048, 2048 + 8, 2048 + 1, 3072))
    if source.random() < 0.05:
        machine.rsp = base + STACK + source.choice((0, 8, WINDOW - 8, WINDOW))
    if source.random() < 0.5:
        machine.rbp = base + STACK + 2048 + source.randrange(0, 1024, 8)
    # Just past the end of the counter that 67 chooses.
    half = 1 << 4 * size
    machine.rcx = source.choice((machine.rcx, source.randrange(6), half, half | 1))
    machine.eflags = 0x202 | source.getrandbits(12) & 0x8D5 | source.choice((0, 0x400))
    machine.gs_base = base + DATA
    machine.xmm = source.randbytes(256)
    return machine


def _arrival(outcome: Outcome) -> int:
    """Where control went: for the trap of a landing pad, the pad's address."""
    rip = outcome.registers["rip"]
    if outcome.signal == SIGTRAP and outcome.signal_code == _SI_KERNEL:
        return rip - 1
    return rip


def _visible(registers: dict[str, int], rip: int) -> dict[str, int]:
    shown = {name: registers[name] for name in REGISTERS if name not in ("rip", "eflags")}
    return {**shown, "rip": rip, "eflags": registers["eflags"] & _FLAGS}


def _mapped_back(registers: dict[str, int], code: SlotCode, offset: int) -> dict[str, int]:
    """What the program is shown of a thread at `offset` of its slot."""
    fixup = next(each for each in code.fixups if each.offset == offset)
    return {
        **registers,
        **dict(fixup.registers),
        "rsp": registers["rsp"] + fixup.sp_delta & _MASK,
        "rip": int(fixup.rip),
    }


def _without_red_zone_word(stack: bytes, machine: Machine) -> bytes:
    """A rolled-back call has written the word that it will write again."""
    size = machine.arch.word_size
    start = machine.rsp - size - machine.base - STACK
    if not 0 <= start <= WINDOW - size:
        return stack
    return stack[:start] + bytes(size) + stack[start + size :]


def check(
    native: NativeRunner, machine: Machine, code: bytes, distance: int, *, base: int | None = None
) -> Plan:
    """Compare each mechanism that the instruction can have; the plan that `auto` makes."""
    site = machine.rip
    direct = native.run(machine, Code(site, code))
    made = plan(code, VirtAddr(site), machine.arch)
    slot = (machine.base if base is None else base) + distance
    for prefer in (None, Mechanism.BOOST, Mechanism.STEP, Mechanism.EMULATE):
        candidate = plan(code, VirtAddr(site), machine.arch, prefer)
        if candidate.mechanism is Mechanism.REFUSE:
            assert candidate.refusal is not None
            return candidate
        if candidate.mechanism is Mechanism.EMULATE:
            _check_emulated(machine, candidate, direct)
        try:
            assembled = candidate.assemble(VirtAddr(slot)) if candidate.slot_size else None
        except OutOfReach:
            candidate = plan_far(candidate)
            if candidate.mechanism is Mechanism.REFUSE:
                continue
            if candidate.mechanism is Mechanism.EMULATE:
                _check_emulated(machine, candidate, direct)
                continue
            assembled = candidate.assemble(VirtAddr(slot))
        if assembled is None:
            continue
        assert len(assembled.code) <= candidate.slot_size
        if candidate.mechanism is Mechanism.BOOST:
            _check_boosted(native, machine, candidate, assembled, slot, direct)
        if plan(code, VirtAddr(site), machine.arch, Mechanism.STEP).mechanism is Mechanism.STEP:
            _check_stepped(native, machine, candidate, assembled, slot, direct)
    return made


def _check_boosted(
    native: NativeRunner,
    machine: Machine,
    made: Plan,
    assembled: SlotCode,
    slot: int,
    direct: Outcome,
) -> None:
    start = machine.copy()
    start.rip = slot
    boosted = native.run(start, Code(machine.rip, made.code), Code(slot, assembled.code))
    rip = _arrival(boosted)
    registers = {**boosted.registers, "rip": rip}
    rolled_back = False
    if slot <= rip < slot + len(assembled.code):
        registers = _mapped_back(registers, assembled, rip - slot)
        rolled_back = registers["rsp"] != boosted.registers["rsp"]
    assert _visible(registers, registers["rip"]) == _visible(direct.registers, _arrival(direct))
    assert (boosted.signal, boosted.signal_code) == (direct.signal, direct.signal_code)
    pushed = machine.rsp - machine.arch.word_size & _MASK
    if not pushed <= boosted.fault_address < machine.rsp:
        # A call whose operand and whose push both fault may find them in the other order.
        _compare_fault_address(direct, boosted)
    assert boosted.selectors == direct.selectors
    assert boosted.data == direct.data
    if rolled_back:
        assert _without_red_zone_word(boosted.stack, machine) == _without_red_zone_word(
            direct.stack, machine
        )
    else:
        assert boosted.stack == direct.stack
    _compare_vectors(direct, boosted)


def _compare_fault_address(direct: Outcome, other: Outcome) -> None:
    """For a memory fault the datum's address; for others the instruction's, which the tracer
    has to set right in siginfo."""
    if direct.signal == SIGSEGV:
        assert other.fault_address == direct.fault_address


def _compare_vectors(direct: Outcome, other: Outcome) -> None:
    def shown(fxsave: bytes) -> bytes:
        return fxsave[: _FXSAVE_FIP.start] + fxsave[_FXSAVE_FIP.stop : _FXSAVE_RESERVED]

    assert shown(other.fxsave) == shown(direct.fxsave)
    assert other.ymm_high == direct.ymm_high


def _check_stepped(
    native: NativeRunner,
    machine: Machine,
    made: Plan,
    assembled: SlotCode,
    slot: int,
    direct: Outcome,
) -> None:
    """Single-step all of the slot: each boundary means what its fixup says."""
    start = machine.copy()
    start.rip = slot
    if made.scratch is not None:
        setattr(start, *made.scratch)
    stepped = native.run(
        start,
        Code(machine.rip, made.code),
        Code(slot, assembled.code),
        step=(slot, slot + len(assembled.code)),
    )

    def shown(registers: dict[str, int]) -> dict[str, int]:
        if made.scratch is not None:
            registers = {**registers, made.scratch[0]: getattr(machine, made.scratch[0])}
        rip = registers["rip"]
        if slot <= rip < slot + len(assembled.code):
            registers = _mapped_back(registers, assembled, rip - slot)
        return _visible(registers, registers["rip"])

    expected = _visible(direct.registers, _arrival(direct))
    for registers in stepped.stepped:
        if registers["rip"] == slot:
            return  # a repeated string instruction, between two iterations
        fixup = next(each for each in assembled.fixups if each.offset == registers["rip"] - slot)
        before = _visible(machine.registers(), machine.rip)
        assert shown(registers) == (expected if fixup.executed else before)
    assert shown(stepped.registers) == expected
    assert not (stepped.registers["eflags"] ^ direct.registers["eflags"]) & _ID
    if (stepped.signal, stepped.signal_code) != (SIGTRAP, TRAP_TRACE):
        assert (stepped.signal, stepped.signal_code) == (direct.signal, direct.signal_code)
    if stepped.registers["rsp"] == direct.registers["rsp"]:
        assert stepped.stack == direct.stack
    assert stepped.data == direct.data
    assert stepped.selectors == direct.selectors
    _compare_vectors(direct, stepped)


def _check_emulated(machine: Machine, made: Plan, direct: Outcome) -> None:
    after = machine.copy()
    try:
        made.emulate(after, after)
    except MemoryFault as fault:
        assert after == machine
        if SITE <= fault.address - machine.base < DATA:
            return  # code, which the machine's model leaves out
        assert direct.signal in (SIGSEGV, SIGBUS)  # SIGBUS: a non-canonical stack address
        assert _arrival(direct) == machine.rip
        return
    assert _visible(after.registers(), after.rip) == _visible(direct.registers, _arrival(direct))
    assert (after.data, after.stack) == (direct.data, direct.stack)
