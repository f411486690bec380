"""Where instructions begin, as far as a function's start tells."""

from __future__ import annotations

from typing import Final

from ptrace_uprobes.addresses import ElfAddr, VirtAddr
from ptrace_uprobes.decoder import decode
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.errors import BadAddress
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.symbols.symbol import Symbol
from ptrace_uprobes.unwind.tables import tables_of

__all__ = ["Boundaries"]

_LONGEST_FUNCTION: Final = 1 << 16


class Boundaries:
    """Refuses addresses inside of instructions."""

    __slots__ = ("_starts",)

    def __init__(self) -> None:
        self._starts: dict[tuple[int, int, int], frozenset[int]] = {}
        """Where the instructions of functions begin that were asked about, by address space."""

    def forget(self) -> None:
        """Other code may be mapped now."""
        self._starts.clear()

    def check(
        self,
        record: SpaceRecord,
        module: Module,
        address: VirtAddr,
        symbol: Symbol | None = None,
    ) -> None:
        """Refuse the inside of an instruction, as far as the function's start tells.

        Where a symbol says that a function begins, call frame information may know better: the
        program itself unwinds by it, and needs no symbols. Of 680,000 symbols of a Debian system
        25 are inside of what it describes as one function, all of them at instructions.
        `symbol` is the one that the address was found by, if it was.
        """
        at = module.to_elf(address)
        if symbol is not None and symbol.address == at and _is_believed(module, at):
            return
        found = module.image.symbol_at(at)
        if found is not None and (found[1] != 0 or _is_believed(module, at)):
            symbol, offset = found
            name, size = symbol.name, symbol.size
        else:
            # Stripped files still say how to unwind, and so where functions begin.
            extent = tables_of(module.image).extent_of(at)
            if extent is None:
                return
            begin, end = extent
            offset = at - begin
            name, size = f"{module.name}+{begin:#x}", end - begin
        if offset == 0 or offset > _LONGEST_FUNCTION:
            return
        start = VirtAddr(address - offset)
        starts = self._instruction_starts(record, start, max(size, offset + 1))
        if offset in starts:
            return
        before = max(known for known in starts if known < offset)
        after = min((known for known in starts if known > offset), default=None)
        if after is None:
            return  # data, or what the decoder does not know: no telling from there on
        raise BadAddress(
            address,
            f"it is inside the instruction at {name}+{before:#x}; "
            f"the next one starts at {name}+{after:#x}",
        )

    def _instruction_starts(
        self, record: SpaceRecord, start: VirtAddr, size: int
    ) -> frozenset[int]:
        """Offsets of the function's instructions, up to one that cannot be decoded."""
        key = (record.space.serial, start, size)
        known = self._starts.get(key)
        if known is not None:
            return known
        architecture = record.space.architecture
        longest = architecture.max_instruction_size
        code = record.traps.read_some(start, min(size, _LONGEST_FUNCTION) + longest)
        starts = [0]
        while starts[-1] < size:
            at = starts[-1]
            instruction = decode(code[at : at + longest], VirtAddr(start + at), architecture)
            if instruction is None:
                break
            starts.append(at + len(instruction.code))
        self._starts[key] = frozenset(starts)
        return self._starts[key]


def _is_believed(module: Module, at: ElfAddr) -> bool:
    """Whether a function may begin here: nothing says that it does in the midst of another."""
    tables = tables_of(module.image)
    if tables.has_start(at):
        return True
    begin = tables.start_of(at)
    if begin is None or begin == at:
        return True
    # What describes a signal trampoline begins before it, since unwinders look for the
    # instruction before a return address (glibc, sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c).
    row = tables.row_at(begin)
    return not isinstance(row, str) and row.is_signal
