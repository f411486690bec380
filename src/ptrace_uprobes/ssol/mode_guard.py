"""The beginning of a boosted slot that code of two modes can reach.

A far call or jump changes between 64-bit and 32-bit code within one process (SDM volume 3, 5.8.1),
and no system call of ours tells at a hit which it is, unless registers are read. So the slot tells,
by a nop that the two modes see as of different lengths; without a stop, and with no register and
no flag touched:

    67 0f 1f 84 00 00 eb NN 00    64-bit: nopl 0xNNeb00(%eax,%eax,1), 9 bytes
    67 0f 1f 84 00 00             32-bit: nopl 0x0(%si), 6 bytes
                      eb NN               jmp, to NN past the byte behind this

Code above 4 GiB is out of reach of 32-bit code, and its slots begin without.
"""

from __future__ import annotations

from typing import Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.errors import EngineBug
from ptrace_uprobes.ssol.plan import Mechanism, Plan
from ptrace_uprobes.ssol.slot import Fixup, SlotCode

__all__ = ["assemble_guarded", "guard_size", "needs_guard"]

_NOP: Final = b"\x67\x0f\x1f\x84\0\0\xeb"
_NARROW_SIZE: Final = 6
"""Of the nop in 32-bit code."""
_WIDE_SIZE: Final = 9
_TRAP: Final = b"\xcc\xcc"
"""int3; the second one is where RIP stands when the first is reported."""
_LARGEST: Final = _WIDE_SIZE + len(_TRAP)
_REACH: Final = 127
_TOP_OF_NARROW: Final = 1 << 32


def needs_guard(plan: Plan) -> bool:
    """Whether the plan's slot has to tell the mode: where the tracer reads no registers."""
    return plan.mechanism is Mechanism.BOOST and plan.address < _TOP_OF_NARROW


def guard_size(plan: Plan) -> int:
    """Bytes that a slot with a guard is larger by."""
    return _LARGEST if needs_guard(plan) else 0


def assemble_guarded(plan: Plan, slot: VirtAddr, architecture: Architecture) -> SlotCode:
    """As `Plan.assemble`, with a guard in front where one is needed. Code of the mode that the
    architecture does not have runs into a trap at `SlotCode.other_mode_offset`."""
    if not needs_guard(plan):
        return plan.assemble(slot)
    narrow = architecture.word_size == 4
    start = _WIDE_SIZE + (len(_TRAP) if narrow else 0)
    inner = plan.assemble(VirtAddr(slot + start))
    # 32-bit code jumps over the trap, or to it behind the rest.
    distance = start - _WIDE_SIZE + 1 if narrow else len(inner.code) + 1
    if distance > _REACH:
        raise EngineBug(f"a slot of {len(inner.code)} bytes is too large for a jump over it")
    guard = _NOP + bytes((distance, 0))
    code = guard + _TRAP + inner.code if narrow else guard + inner.code + _TRAP
    fixups = [Fixup(offset, plan.address, executed=False) for offset in (0, _NARROW_SIZE)]
    fixups += [
        Fixup(f.offset + start, f.rip, f.executed, f.sp_delta, f.registers) for f in inner.fixups
    ]
    trap = _WIDE_SIZE if narrow else len(code) - len(_TRAP)
    # Stopped in front of the trap, or behind it with the trap yet to be reported.
    fixups += [Fixup(offset, plan.address, executed=False) for offset in (trap, trap + 1)]
    return SlotCode(code, tuple(fixups), other_mode_offset=trap + 1, guard_size=start)
