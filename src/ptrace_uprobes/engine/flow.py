"""What the program's code says of how threads came to where they are: calls and jumps.

Return probes need it twice. A word on top of the stack is a return address only if it is where
some call returns to. And a function that is entered where another call of a function stood, with
the same return address, was either jumped to from there, a tail call, or that call has been
left: which of them it was, the jumps that the left function could have made tell.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86_call import LONGEST_CALL, ends_with_call
from ptrace_uprobes.arch.x86_encoding import Family
from ptrace_uprobes.decoder import Instruction, decode, is_relative_branch
from ptrace_uprobes.engine.boundaries import Boundaries
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.errors import BadAddress
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.unwind.tables import tables_of
from ptrace_uprobes.unwind.without_cfi import is_signal_trampoline

__all__ = ["Reach", "called_directly", "reach_by_jumps", "why_nothing_returns_to"]

_CALL_REL32: Final = 0xE8
_MOST_INSTRUCTIONS: Final = 4096
"""Looked at, 12 µs each, before the answer is `PERHAPS`."""
_LONGEST_FUNCTION: Final = 1 << 16
_LAST: Final = frozenset(("jmp", "ret", "call", "ud2", "hlt", "int3"))
_INDIRECT: Final = 0xFF
_JUMP: Final = 4
"""FF /4: jmp r/m64."""


class Reach(enum.Enum):
    """Whether jumps lead from one function to the first instruction of another."""

    NEVER = enum.auto()
    PERHAPS = enum.auto()
    """There is a jump whose target the code does not tell."""
    YES = enum.auto()


@dataclass(frozen=True, slots=True)
class _Exits:
    """The jumps out of a function."""

    targets: frozenset[int]
    unknown: bool


# -- where calls return to


def why_nothing_returns_to(
    record: SpaceRecord, module: Module | None, address: VirtAddr, boundaries: Boundaries
) -> str | None:
    """Why `address`, in executable memory, is where no call returns to; None if one may."""
    if module is not None:
        if not module.image.is_instructions(module.to_elf(address)):
            return "what stands where its return address should be is the address of data"
        try:
            boundaries.check(record, module, address)
        except BadAddress:
            return "what stands where its return address should be is inside of an instruction"
    if ends_with_call(record.traps.read_some(address - LONGEST_CALL, LONGEST_CALL)):
        return None
    if is_signal_trampoline(record.traps.read_some(address, 16)):
        return None
    # What was never called may still be returned to: a coroutine's end, a goroutine's.
    if module is not None and (module.image.is_go or _is_described(module, address)):
        return None
    return "what stands where its return address should be is not behind a call"


def _is_described(module: Module, address: VirtAddr) -> bool:
    """Whether the file itself says that a function is there."""
    at = module.to_elf(address)
    found = module.image.symbol_at(at)
    return (found is not None and found[1] == 0) or tables_of(module.image).start_of(at) is not None


def called_directly(record: SpaceRecord, return_address: int) -> int | None:
    """The target of the call before a return address, where the instruction itself has it."""
    before = record.traps.read_some(return_address - 5, 5)
    if len(before) != 5 or before[0] != _CALL_REL32:
        return None
    distance: int = struct.unpack("<i", before[1:])[0]
    return return_address + distance


# -- where jumps lead


def reach_by_jumps(record: SpaceRecord, function: int, goal: int) -> Reach:
    """Whether a thread that entered `function` can have come to the beginning of `goal` by jumps
    alone, through other functions too."""
    known = record.reaches.get((function, goal))
    if known is None:
        known = record.reaches[function, goal] = _reach(record, function, goal)
    return known


def _reach(record: SpaceRecord, function: int, goal: int) -> Reach:
    waiting, seen = [function], set()
    left = _MOST_INSTRUCTIONS
    perhaps = False
    while waiting:
        extent = _extent(record, waiting.pop())
        if extent is None:
            perhaps = True
            continue
        if extent in seen:
            continue
        seen.add(extent)
        instructions = _instructions(record, *extent, left)
        if instructions is None:
            perhaps = True
            continue
        left -= len(instructions)
        exits = _exits(record, instructions, *extent)
        if goal in exits.targets:
            return Reach.YES
        perhaps = perhaps or exits.unknown
        waiting.extend(exits.targets)
    return Reach.PERHAPS if perhaps else Reach.NEVER


def _extent(record: SpaceRecord, address: int) -> tuple[int, int] | None:
    """Where the function that holds the address begins and ends."""
    module = record.module_at(address)
    if module is None:
        return None
    at = module.to_elf(VirtAddr(address))
    found = module.image.symbol_at(at)
    if found is not None and found[0].size > found[1]:
        begin = address - found[1]
        return begin, begin + found[0].size
    described = tables_of(module.image).extent_of(at)
    # One entry describes the whole linkage table.
    if described is None or module.image.stub_at(at) is not None:
        return address, address + 16
    return described[0] + module.bias, described[1] + module.bias


def _instructions(record: SpaceRecord, begin: int, end: int, most: int) -> list[Instruction] | None:
    """All of them, with the first of the padding behind; None if they cannot be told."""
    if end - begin > _LONGEST_FUNCTION:
        return None
    architecture = record.space.architecture
    longest = architecture.max_instruction_size
    code = record.traps.read_some(begin, end - begin + longest)
    found: list[Instruction] = []
    at = begin
    while at < end:
        one = decode(code[at - begin : at - begin + longest], VirtAddr(at), architecture)
        if one is None or len(found) >= most:
            return None
        found.append(one)
        at += len(one.code)
        if _is_indirect_jump(one) and one.encoding.is_rip_relative:
            break  # a stub of the linkage table: nothing behind it belongs to it
    return found


def _exits(record: SpaceRecord, instructions: list[Instruction], begin: int, end: int) -> _Exits:
    targets: set[int] = set()
    unknown = False
    for one in instructions:
        if is_relative_branch(one.encoding):
            is_call_or_xbegin = one.encoding.opcode in (_CALL_REL32, 0xC7)
            if not is_call_or_xbegin and not begin <= one.branch_target < end:
                targets.add(one.branch_target)
        elif _is_indirect_jump(one):
            word = b""
            if one.encoding.is_rip_relative:
                word = record.traps.read_some(one.memory_target, 8)
            if len(word) == 8:
                targets.add(int.from_bytes(word, "little"))
            else:
                unknown = True
    if instructions and not _ends_here(instructions[-1]):
        targets.add(end)
    return _Exits(frozenset(targets), unknown)


def _ends_here(last: Instruction) -> bool:
    """Whether a function's last instruction does not go on into the next one. A call there is of
    what does not return."""
    return last.mnemonic.split()[-1] in _LAST


def _is_indirect_jump(one: Instruction) -> bool:
    encoding = one.encoding
    return (
        encoding.family is Family.LEGACY
        and encoding.opcode_map == 0
        and encoding.opcode == _INDIRECT
        and encoding.reg == _JUMP
    )
