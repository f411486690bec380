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
from ptrace_uprobes.unwind.history import CONVENTIONS
from ptrace_uprobes.unwind.tables import tables_of
from ptrace_uprobes.unwind.without_cfi import is_signal_trampoline

__all__ = [
    "Reach",
    "called_directly",
    "exits_of",
    "extent_of",
    "instructions_of",
    "reach_by_jumps",
    "why_nothing_returns_to",
]

_CALL_REL32: Final = 0xE8
_MOST_INSTRUCTIONS: Final = 4096
"""Looked at, 12 µs each, before the answer is `PERHAPS`."""
_LONGEST_FUNCTION: Final = 1 << 16
_XBEGIN: Final = 0xC7
_STUB_SIZE: Final = 16
_LAST: Final = frozenset(("jmp", "ret", "call", "ud2", "hlt", "int3"))
_INDIRECT: Final = 0xFF
_JUMP: Final = 4
"""FF /4: jmp r/m64."""
_DIRECT: Final = 0x25
"""ModRM of `jmp *address` in 32-bit code."""
_BY_EBX: Final = 0xA3
"""ModRM of `jmp *n(%ebx)`."""


class Reach(enum.Enum):
    """Whether jumps lead from one function to the first instruction of another."""

    NEVER = enum.auto()
    PERHAPS = enum.auto()
    """There is a jump whose target the code does not tell."""
    YES = enum.auto()


@dataclass(frozen=True, slots=True)
class Exits:
    """Where a function's jumps lead."""

    inside: frozenset[int]
    outside: frozenset[int]
    unknown: bool
    unbound: frozenset[tuple[int, int]] = frozenset()
    """Words of a linkage table, with what they hold, that lead nowhere yet: they change once."""


# -- where calls return to


def why_nothing_returns_to(
    record: SpaceRecord, module: Module | None, address: VirtAddr, boundaries: Boundaries
) -> str | None:
    """Why `address`, in executable memory, is where no call returns to; None if one may."""
    if module is not None:
        if not module.image.is_instructions(module.to_elf(address)):
            return "what stands where its return address should be is the address of data"
        target = called_directly(record, address)
        callee = record.module_at(target) if target is not None else None
        if callee is not None and _begins_function(callee, VirtAddr(target or 0)):
            return None  # nothing but a call looks like that, and it costs no decoding
        try:
            boundaries.check(record, module, address)
        except BadAddress:
            return "what stands where its return address should be is inside of an instruction"
    if ends_with_call(record.traps.read_some(address - LONGEST_CALL, LONGEST_CALL)):
        return None
    word = record.space.architecture.word_size
    if is_signal_trampoline(record.traps.read_some(address, 16), word):
        return None
    # What was never called may still be returned to: a coroutine's end, a goroutine's.
    if module is not None and (module.image.is_go or _is_described(module, address)):
        return None
    return "what stands where its return address should be is not behind a call"


def _begins_function(module: Module, address: VirtAddr) -> bool:
    """Whether the file itself says that a function, or a stub for one, begins there."""
    at = module.to_elf(address)
    found = module.image.symbol_at(at)
    if found is not None and found[1] == 0:
        return True
    stub = module.image.stub_at(at)
    return (stub is not None and stub[1] == 0) or tables_of(module.image).start_of(at) == at


def _is_described(module: Module, address: VirtAddr) -> bool:
    """Whether the file itself says that a function is there."""
    described = tables_of(module.image).start_of(module.to_elf(address))
    return described is not None or _begins_function(module, address)


def called_directly(record: SpaceRecord, return_address: int) -> int | None:
    """The target of the call before a return address, where the instruction itself has it."""
    before = record.traps.read_some(return_address - 5, 5)
    if len(before) != 5 or before[0] != _CALL_REL32:
        return None
    distance: int = struct.unpack("<i", before[1:])[0]
    return return_address + distance & record.space.architecture.mask


# -- where jumps lead


def reach_by_jumps(record: SpaceRecord, function: int, goal: int) -> Reach:
    """Whether a thread that entered `function` can have come to the beginning of `goal` by jumps
    alone, through other functions too."""
    known: tuple[Reach, set[tuple[int, int]]] | None = record.reaches.get((function, goal))
    if known is None or any(_word_at(record, place) != word for place, word in known[1]):
        known = record.reaches[function, goal] = _reach(record, function, goal)
    return known[0]


def _reach(record: SpaceRecord, function: int, goal: int) -> tuple[Reach, set[tuple[int, int]]]:
    """With the words that it depends on."""
    waiting, seen = [function], set()
    left = _MOST_INSTRUCTIONS
    perhaps = False
    unbound: set[tuple[int, int]] = set()
    while waiting:
        extent = extent_of(record, waiting.pop())
        if extent is None:
            perhaps = True
            continue
        if extent in seen:
            continue
        seen.add(extent)
        instructions = instructions_of(record, *extent, left)
        if instructions is None:
            perhaps = True
            continue
        left -= len(instructions)
        exits = exits_of(record, instructions, *extent)
        if goal in exits.inside or goal in exits.outside:
            return Reach.YES, set()
        perhaps = perhaps or exits.unknown
        unbound |= exits.unbound
        waiting.extend(exits.outside)
    return Reach.PERHAPS if perhaps else Reach.NEVER, unbound


def extent_of(record: SpaceRecord, address: int) -> tuple[int, int] | None:
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
    if described is None or module.image.is_stub(at):
        return address, address + _STUB_SIZE
    return described[0] + module.bias, described[1] + module.bias


def instructions_of(
    record: SpaceRecord, begin: int, end: int, most: int
) -> list[Instruction] | None:
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
        if _is_indirect_jump(one) and _place_jumped_through(record, one) is not None:
            break  # a stub of the linkage table: nothing behind it belongs to it
    return found


def exits_of(record: SpaceRecord, instructions: list[Instruction], begin: int, end: int) -> Exits:
    inside: set[int] = set()
    outside: set[int] = set()
    unbound: set[tuple[int, int]] = set()
    unknown = False
    falls_through = False
    for one in instructions:
        if falls_through:
            inside.add(one.address)  # where another function may begin as well
        falls_through = not _ends_here(one)
        if is_relative_branch(one.encoding):
            if one.encoding.opcode not in (_CALL_REL32, _XBEGIN):
                target = one.branch_target
                (inside if begin <= target < end else outside).add(target)
        elif _is_indirect_jump(one) and _may_leave(record, one):
            place = _place_jumped_through(record, one)
            stored = None if place is None else _word_at(record, place)
            if place is None or stored is None:
                unknown = True
            elif not _is_stub(record, one.address):
                outside.add(stored)
                unknown = unknown or _is_writable(record, place)
            elif _is_stub(record, stored):
                unbound.add((place, stored))
            else:
                outside.add(stored)
    if instructions and falls_through:
        outside.add(end)
    return Exits(frozenset(inside), frozenset(outside), unknown, frozenset(unbound))


def _may_leave(record: SpaceRecord, jump: Instruction) -> bool:
    """Whether an indirect jump can be a tail call: there the stack is as at the entry. A switch's
    jump in a function with a frame is none, by what the file's CFI says of the frame."""
    module = record.module_at(jump.address)
    if module is None:
        return True
    at = module.to_elf(jump.address)
    if module.image.is_stub(at):
        return True
    row = tables_of(module.image).row_at(at)
    if isinstance(row, str) or row.cfa_expression is not None:
        return True
    convention = CONVENTIONS[module.image.machine]
    return (row.cfa_register, row.cfa_offset) == (convention.sp, convention.word)


def _is_stub(record: SpaceRecord, address: int) -> bool:
    """Whether it is in a linkage table. While a stub leads back into one, to where the dynamic
    linker is called, it has led nowhere."""
    module = record.module_at(address)
    return module is not None and module.image.is_stub(module.to_elf(VirtAddr(address)))


def _word_at(record: SpaceRecord, place: int) -> int | None:
    size = record.space.architecture.word_size
    word = record.traps.read_some(place, size)
    return int.from_bytes(word, "little") if len(word) == size else None


def _is_writable(record: SpaceRecord, place: int) -> bool:
    mapping = record.mapping_at(place)
    return mapping is None or mapping.is_writable


def _place_jumped_through(record: SpaceRecord, jump: Instruction) -> int | None:
    """Where the word of memory is that holds an indirect jump's target, if that does not depend on
    what runs: on x86-64 it is addressed by RIP, on i386 directly, or in a stub by EBX."""
    encoding = jump.encoding
    architecture = record.space.architecture
    if architecture.word_size == 8:
        return jump.memory_target if encoding.is_rip_relative else None
    if encoding.modrm == _DIRECT:
        return jump.displacement & architecture.mask
    module = record.module_at(jump.address)
    if encoding.modrm != _BY_EBX or module is None:
        return None
    table = module.image.global_offset_table
    if table is None or not _is_stub(record, jump.address):
        return None
    return module.bias + table + jump.displacement & architecture.mask


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
