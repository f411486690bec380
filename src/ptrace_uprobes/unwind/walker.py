"""Walks the stack of a thread that stands still: Unwinder.

The loop in `Unwinder._climb` is hot: a frame that was met before costs a dictionary look-up and
two words of the stack, about 1 µs; only CFA = RSP or RBP plus a number is computed in line, which
is nearly every frame. What a frame needs is kept by its address, its name with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.symbols.demangle import demangle
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.unwind.cursor import Malformed
from ptrace_uprobes.unwind.history import CONVENTIONS, Convention, History, Level
from ptrace_uprobes.unwind.memory import StackMemory, Unreadable
from ptrace_uprobes.unwind.row import Kind, Row
from ptrace_uprobes.unwind.stack import Frame, Stack
from ptrace_uprobes.unwind.tables import tables_of
from ptrace_uprobes.unwind.without_cfi import Uncharted, examine, guess, trampoline_at

__all__ = ["Unwinder"]

_MOST_KNOWN: Final = 1 << 16
_ON_SP: Final = 0
_ON_BP: Final = 1
_BY_ROW: Final = 2
_FAR: Final = 1 << 31
"""What an offset in the hot loop may be, where sums are not cut to 64 bits."""
_ENTRY_CODE: Final = 64
"""Bytes of a file's entry point, which nothing has called: often without CFI, as in ld.so."""
_SIGNAL_NAME: Final = "<signal handler called>"
_STACK_SWITCH: Final = "__morestack"


class _Step(NamedTuple):
    """All that is known of an address."""

    kind: int
    cfa_offset: int
    bp_offset: int
    """Where the caller's RBP is, from the CFA; 0 if it is still in the register."""
    frame: Frame
    row: Row | None
    bias: int
    uncharted: Uncharted | None
    """Where there is no row: what the code itself tells."""


class _CutHere(Exception):
    """The stack cannot be followed further; says why."""


class Unwinder:
    """The stacks of one address space."""

    def __init__(
        self,
        module_at: Callable[[int], Module | None],
        read: Callable[[int, int], bytes],
        architecture: Architecture = X86_64,
    ) -> None:
        """`read` gives as many of the bytes at an address as are mapped, and shows no traps."""
        self._convention = CONVENTIONS[architecture.elf_machine]
        self._module_at = module_at
        self._read = read
        self._known: tuple[dict[int, _Step], dict[int, _Step]] = ({}, {})
        """By address: of callers, whose call is before it, and of where a thread stands."""

    def forget(self) -> None:
        """Modules have been loaded or unloaded."""
        for known in self._known:
            known.clear()

    def walk(self, registers: object, limit: int = 128) -> Stack:
        """The frames of a thread with these registers (`rip`, `rsp` ...), innermost first.

        At most `limit`. Never raises for what the program or its files contain.
        """
        frames, cut = self._climb(registers, limit)
        return Stack(tuple(frames), cut)

    def addresses(self, registers: object, limit: int = 128) -> list[int]:
        """The frames' addresses alone."""
        return [frame.address for frame in self._climb(registers, limit)[0]]

    def frame_ends(self, registers: object, limit: int) -> list[int]:
        """Where each of those frames ends, its CFA: RSP as it is when the function has returned."""
        levels: list[Level] = []
        self._climb(registers, limit, levels)
        return [level[1] for level in levels]

    def _climb(
        self, registers: object, limit: int, levels: list[Level] | None = None
    ) -> tuple[list[Frame], str | None]:
        """`levels` is given what the frames were found by."""
        pc: int = registers.rip  # type: ignore[attr-defined]  # a ptrace struct, or alike
        sp: int = registers.rsp  # type: ignore[attr-defined]
        bp: int = registers.rbp  # type: ignore[attr-defined]
        convention = self._convention
        word = convention.word
        odd = word - 1
        memory = StackMemory(self._read, word)
        history = History(registers, memory, [] if levels is None else levels, convention)
        levels = history.levels
        of_callers, of_threads = self._known
        known, exact = of_threads, True
        frames: list[Frame] = []
        seen: set[tuple[int, int]] = set()
        words, base, top = memory.words, 0, 0
        try:
            while len(frames) < limit:
                step = known.get(pc)
                if step is None:
                    step = self._look_at(pc, exact)
                kind, offset, bp_offset, frame, row, bias, _ = step
                frames.append(frame)
                if kind == _BY_ROW:
                    above = self._slow_step(step, (row, 0, sp, bp, pc, bias), history, exact)
                    if above is None:
                        return frames, None
                    pc, sp, bp, exact = above
                    words, base, top = memory.words, memory.base, memory.top
                    known = of_threads if exact else of_callers
                    if exact:
                        # A signal's frame may be above what it interrupted.
                        if (pc, sp) in seen:
                            raise _CutHere("the stack is a loop")
                        seen.add((pc, sp))
                else:
                    cfa = (sp if kind == _ON_SP else bp) + offset
                    if cfa <= sp:
                        if not _switches_stacks(frame):
                            raise _CutHere(
                                f"bad CFI for {pc:#x}: its CFA is below its stack pointer"
                            )
                        if (pc, cfa) in seen:
                            raise _CutHere("the stack is a loop")
                        seen.add((pc, cfa))
                    levels.append((row, cfa, sp, bp, pc, bias))
                    place = cfa - word
                    if not base <= place < top or place & odd:
                        pc = memory.word(place)
                        words, base, top = memory.words, memory.base, memory.top
                    else:
                        pc = words[(place - base) // word]
                    if bp_offset:
                        place = cfa + bp_offset
                        if not base <= place < top or place & odd:
                            bp = memory.word(place)
                            words, base, top = memory.words, memory.base, memory.top
                        else:
                            bp = words[(place - base) // word]
                    sp = cfa
                    known, exact = of_callers, False
                if pc == 0 and not exact:
                    return frames, None
        except _CutHere as reason:
            return frames, str(reason)
        except Malformed as error:
            return frames, f"bad CFI for {pc:#x}: {error}"
        except Unreadable as error:
            return frames, f"the stack cannot be read at {error.address:#x}"
        return frames, f"limit of {limit} frames"

    def _slow_step(
        self, step: _Step, level: Level, history: History, exact: bool
    ) -> tuple[int, int, int, bool] | None:
        """PC, SP and BP of the caller, and whether the PC is where it stands; None: there is none.

        Raises `_CutHere`, `Malformed`, `Unreadable`.
        """
        row, _, sp, bp, pc, bias = level
        code = step.uncharted
        if code is not None:
            module = self._module_of(pc, exact)
            if module is not None and 0 <= pc - bias - module.image.entry < _ENTRY_CODE:
                return None
            row = guess(history.memory, code, pc, sp, bp, self._convention, exact=exact)
            if row is None:
                raise _CutHere(code.why)
        assert row is not None
        rule = row.rules.get(row.return_address)
        if rule is None:
            raise _CutHere(f"bad CFI for {pc:#x}: it gives no return address")
        if rule[0] == Kind.UNDEFINED:
            return None
        cfa = history.cfa(row, level)
        if not row.is_signal and cfa <= sp:
            raise _CutHere(f"bad CFI for {pc:#x}: its CFA is below its stack pointer")
        number, level = len(history.levels), (row, cfa, sp, bp, pc, bias)
        above = history.applied(rule, number, level)
        convention = self._convention
        sp_rule, bp_rule = row.rules.get(convention.sp), row.rules.get(convention.bp)
        if sp_rule is not None:
            cfa = history.applied(sp_rule, number, level)
        if bp_rule is not None:
            lost = bp_rule[0] == Kind.UNDEFINED
            bp = 0 if lost else history.applied(bp_rule, number, level)
        history.levels.append(level)
        if not row.is_signal and cfa <= sp:
            raise _CutHere(f"bad CFI for {pc:#x}: the caller's stack is below its stack pointer")
        return above, cfa, bp, row.is_signal

    def _module_of(self, pc: int, exact: bool) -> Module | None:
        # A call may be a function's last instruction: the one before a return address counts.
        return self._module_at(pc if exact else pc - 1)

    def _look_at(self, pc: int, exact: bool) -> _Step:
        """Cold: what there is to know of an address that is met for the first time."""
        known = self._known[exact]
        if len(known) >= _MOST_KNOWN:
            known.clear()
        module = self._module_of(pc, exact)
        found: Row | str = "no CFI"
        if module is not None:
            address = module.to_elf(VirtAddr(pc if exact else pc - 1))
            try:
                found = tables_of(module.image).row_at(address)
            except UprobesError:
                found = "no CFI (its file cannot be read)"
        if isinstance(found, str):
            found = trampoline_at(self._read(pc, 16), self._convention) or found
        is_signal = isinstance(found, Row) and found.is_signal
        frame = self._frame(pc, exact, module, is_signal)
        bias = 0 if module is None else module.bias
        if isinstance(found, Row):
            step = _step_of(found, frame, bias, self._convention)
        else:
            memory = StackMemory(self._read, self._convention.word)
            code = examine(memory, module, pc, exact=exact)
            code = code._replace(why=f"{found} for {pc:#x}{code.why}")
            step = _Step(_BY_ROW, 0, 0, frame, None, bias, code)
        if module is not None:  # else a library may come to be there
            known[pc] = step
        return step

    def _frame(self, pc: int, exact: bool, module: Module | None, is_signal: bool) -> Frame:
        if module is None:
            return Frame(pc, _SIGNAL_NAME if is_signal else None, None, is_signal)
        if is_signal:
            return Frame(pc, _SIGNAL_NAME, module.name, is_signal)
        back = 0 if exact else 1
        address = module.to_elf(VirtAddr(pc - back))
        name, offset = module.name, pc - module.bias
        try:
            found = module.image.symbol_at(address)
            # The linkage table follows a function whose size is not known.
            stub = None
            if found is None or found[0].size == 0:
                stub = module.image.stub_at(address)
        except UprobesError:
            found = stub = None
        if stub is not None:
            name, offset = f"{demangle(stub[0])}@plt", stub[1] + back
        elif found is not None:
            name, offset = demangle(found[0].label), found[1] + back
        return Frame(pc, f"{name}+{offset:#x}" if offset else name, module.name)


def _switches_stacks(frame: Frame) -> bool:
    """Whether it is libgcc's function that goes on to another stack (gcc -fsplit-stack).

    That may lie above the one it comes from. gdb knows it by its name too.
    """
    return frame.symbol is not None and frame.symbol.partition("+")[0] == _STACK_SWITCH


def _step_of(found: Row, frame: Frame, bias: int, convention: Convention) -> _Step:
    rules = found.rules
    sp, ra = convention.sp, convention.ra
    bp_rule = rules.get(convention.bp)
    simple = (
        found.cfa_expression is None
        and found.cfa_register in (sp, convention.bp)
        and not found.is_signal
        and found.return_address == ra
        and rules.get(ra) == (Kind.OFFSET, -convention.word, b"")
        and sp not in rules
        and abs(found.cfa_offset) < _FAR
        and (bp_rule is None or (bp_rule[0] == Kind.OFFSET and 0 < abs(bp_rule[1]) < _FAR))
    )
    if not simple:
        return _Step(_BY_ROW, 0, 0, frame, found, bias, None)
    kind = _ON_SP if found.cfa_register == sp else _ON_BP
    bp_offset = 0 if bp_rule is None else bp_rule[1]
    return _Step(kind, found.cfa_offset, bp_offset, frame, found, bias, None)
