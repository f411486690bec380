"""What the program would be shown of a run, in place or through a plan, and where two differ.

The rules of showing are the engine's: `leave_slot` and `_mend_address` of engine/signals.py, and
`Stepper.finish` of engine/stepping.py.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import Final

from fuzz.case import Case
from fuzz.harness import PAGE, REGISTERS, STACK, Result
from fuzz.mode import Mode
from fuzz.states import Thread
from ptrace_uprobes.ssol.plan import Plan, SlotCode

__all__ = [
    "Shown",
    "differences",
    "is_other_of_two_faults",
    "shown_emulated",
    "shown_in_place",
    "shown_in_slot",
    "without_the_next_fetch",
]

_RSP, _RIP, _EFLAGS = 15, 16, 17
_SI_KERNEL: Final = 0x80
_TRAP_TRACE: Final = 2
_TF, _RF = 0x100, 0x10000
_PAGE_FAULT: Final = 14
_FETCH: Final = 0x10
_FOP: Final = slice(6, 8)
_FIP: Final = slice(8, 16)
_MINE_FROM, _MINE_TO = 464, 576
"""The kernel's own words and the XSAVE header: XSTATE_BV tells how, not what, was saved."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A state as the program can see it, with the signal that it gets."""

    signal: tuple[int, int, int, int, int]
    """Number, code, address, and the frame's trap number and error; zeros where it goes on."""
    cr2: int
    general: tuple[int, ...]
    bases: tuple[int, int]
    segments: tuple[int, ...]
    xstate: bytes
    data: bytes
    stack: bytes
    rolled_back: bool = False
    """A call's push was undone: the word below RSP has been written."""


_GOES_ON: Final = (0, 0, 0, 0, 0)


def _is_arrival(result: Result) -> bool:
    """It ran into an int3: that is where the program goes on."""
    return result.signal == signal.SIGTRAP and result.signal_code == _SI_KERNEL


def _xstate(result: Result) -> bytes:
    return result.xstate[:_MINE_FROM] + result.xstate[_MINE_TO:]


def _shown(result: Result, general: tuple[int, ...], address: int, xstate: bytes) -> Shown:
    told = (result.signal, result.signal_code, address, result.trap, result.error)
    return Shown(
        signal=_GOES_ON if _is_arrival(result) else told,
        cr2=result.cr2 if result.trap == _PAGE_FAULT and not _is_arrival(result) else 0,
        general=general,
        bases=(result.fs_base, result.gs_base),
        segments=result.segments,
        xstate=xstate,
        data=result.data,
        stack=result.stack,
    )


def _at(general: tuple[int, ...], rip: int, rsp: int, eflags: int) -> tuple[int, ...]:
    return (*general[:_RSP], rsp, rip, eflags)


def shown_in_place(result: Result, mode: Mode) -> Shown:
    general = result.general
    if _is_arrival(result):
        general = _at(general, general[_RIP] - 1 & mode.mask, general[_RSP], general[_EFLAGS])
    return _shown(result, general, result.fault_address, _xstate(result))


def shown_in_slot(
    result: Result, case: Case, made: Plan, assembled: SlotCode, slot: int, *, stepped: bool
) -> Shown | str:
    """A sentence if the thread stands where no fixup is."""
    general = result.general
    rip, rsp, eflags = general[_RIP], general[_RSP], general[_EFLAGS]
    if _is_arrival(result):
        rip -= 1
    registers: dict[str, int] = {}
    executed = True
    rolled_back = False
    address = result.fault_address
    fixups = {slot + fixup.offset: fixup for fixup in assembled.fixups}
    if slot <= rip < slot + len(assembled.code):
        fixup = fixups.get(rip)
        if fixup is None:
            return f"stopped inside of an instruction of the slot, at offset {rip - slot}"
        executed = fixup.executed
        rip, rsp = fixup.rip, rsp + fixup.sp_delta
        rolled_back = fixup.sp_delta != 0
        registers = dict(fixup.registers)
        # As the engine mends it for what the thread's own instruction caused.
        if slot <= address <= slot + max(made.slot_size, len(assembled.code)):
            mended = fixups.get(address)
            address = mended.rip if mended is not None else case.site
    xstate = _xstate(result)
    if stepped:
        eflags &= ~_TF
        if made.scratch is not None:
            name = made.scratch[0]
            registers[name] = case.general[REGISTERS.index(name)]
        if made.fix_fip and int.from_bytes(xstate[_FIP], "little") == slot:
            fop = made.fop.to_bytes(2, "little") if any(xstate[_FOP]) else bytes(2)
            xstate = xstate[:6] + fop + int(case.site).to_bytes(8, "little") + xstate[16:]
    values = tuple(
        registers.get(name, value) for name, value in zip(REGISTERS, general, strict=True)
    )
    mask = case.mode.mask
    shown = _shown(result, _at(values, rip & mask, rsp & mask, eflags), address, xstate)
    if rolled_back:
        shown = replace(shown, rolled_back=True)
    if (
        stepped
        and executed
        and (result.signal, result.signal_code)
        == (
            signal.SIGTRAP,
            _TRAP_TRACE,
        )
    ):
        # The engine's own: the thread goes on.
        shown = replace(shown, signal=_GOES_ON, cr2=0)
    return shown


def shown_emulated(thread: Thread, resting: Shown) -> Shown:
    """`resting`: what an instruction that does nothing leaves of the state that is not computed."""
    return replace(
        resting,
        signal=_GOES_ON,
        cr2=0,
        general=thread.general(),
        bases=(thread.fs_base, thread.gs_base),
        data=bytes(thread.data[:PAGE]),
        stack=bytes(thread.stack),
    )


def differences(place: Shown, other: Shown, case: Case) -> frozenset[str]:
    """The names of what is not the same."""
    found = {
        name
        for name, here, there in zip(REGISTERS, place.general, other.general, strict=True)
        if here != there
    }
    if "eflags" in found and _flags_agree(place, other):
        found.discard("eflags")
    for name in ("signal", "cr2", "bases", "segments", "xstate", "data", "stack"):
        if getattr(place, name) != getattr(other, name):
            found.add(name)
    if "stack" in found and other.rolled_back:
        if _without_pushed_word(place, case) == _without_pushed_word(other, case):
            found.discard("stack")
    return frozenset(found)


def _flags_agree(place: Shown, other: Shown) -> bool:
    """RF of a thread that goes on is the int3's, or the step's, by which a run here ends."""
    mask = ~0 if place.signal != _GOES_ON else ~_RF
    return place.general[_EFLAGS] & mask == other.general[_EFLAGS] & mask


def _without_pushed_word(shown: Shown, case: Case) -> bytes:
    """A call that faults, and was undone, has written the word that it will write again."""
    word = case.mode.word
    start = case.general[_RSP] - word - case.mode.bases[case.base] - STACK
    if not -word < start < PAGE:
        return shown.stack
    stack = bytearray(shown.stack)
    for offset in range(max(start, 0), min(start + word, PAGE)):
        stack[offset] = 0
    return bytes(stack)


def without_the_next_fetch(place: Shown, case: Case) -> Shown:
    """The instruction was done; what faulted is the fetch of the next one."""
    error = place.signal[4]
    if place.signal[3] == _PAGE_FAULT and error & _FETCH and place.general[_RIP] != case.site:
        flags = place.general[_EFLAGS] & ~_RF
        general = (*place.general[:_EFLAGS], flags)
        return replace(place, signal=_GOES_ON, cr2=0, general=general)
    return place


def is_other_of_two_faults(place: Shown, other: Shown, case: Case) -> bool:
    """A call whose operand and whose push both fault may find them in the other order."""
    word = case.mode.word
    pushed = case.general[_RSP] - word & case.mode.mask
    return (
        other.signal[0] in (signal.SIGSEGV, signal.SIGBUS)
        and place.signal[0] in (signal.SIGSEGV, signal.SIGBUS)
        and (pushed <= other.signal[2] < pushed + word or other.signal[2] == 0)
    )
