"""One row of the table that call frame information stands for (DWARF 5, section 6.4.1).

At one instruction: how to compute the canonical frame address (CFA; on x86-64, RSP before the
call), and where the caller's registers are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ptrace_uprobes.unwind.cursor import Cursor, Malformed
from ptrace_uprobes.unwind.entries import Cie, Fde

__all__ = ["Kind", "Row", "Rule", "row_of"]

_MOST_INSTRUCTIONS: Final = 50_000
_DEEPEST: Final = 64
_MOST_REGISTERS: Final = 128
_LAST_REGISTER: Final = 16
"""RIP: what is said of vector registers is read, and not kept."""
_LONGEST_EXPRESSION: Final = 256
"""Bytes. Those of linkage tables have 11; a row, with all that it says, is kept."""


class Kind(IntEnum):
    """How a register is found."""

    UNDEFINED = 0
    OFFSET = 1
    """In memory at CFA + n."""
    VALUE_OFFSET = 2
    """It is CFA + n."""
    REGISTER = 3
    EXPRESSION = 4
    """In memory at what the expression gives."""
    VALUE_EXPRESSION = 5


Rule = tuple[Kind, int, bytes]
"""The number that its kind needs, or the expression."""


@dataclass(frozen=True, slots=True)
class Row:
    cfa_register: int
    cfa_offset: int
    cfa_expression: bytes | None
    """Instead of the two."""
    rules: dict[int, Rule]
    """Of the registers that do not have the value that they have here."""
    return_address: int
    is_signal: bool


def row_of(fde: Fde, address: int) -> Row:
    """The row for the instruction at `address`, which the FDE covers; raises `Malformed`."""
    machine = _Machine(fde.cie, address)
    machine.run(fde.cie.instructions, 0)
    machine.initial = dict(machine.rules)
    machine.run(fde.instructions, fde.begin)
    if machine.cfa_expression is None and machine.cfa_register < 0:
        raise Malformed("call frame information does not give the CFA")
    return Row(
        machine.cfa_register,
        machine.cfa_offset,
        machine.cfa_expression,
        machine.rules,
        fde.cie.return_address,
        fde.cie.is_signal,
    )


class _Machine:
    """Executes call frame instructions up to an address (DWARF 5, section 6.4.2)."""

    def __init__(self, cie: Cie, target: int) -> None:
        self._cie = cie
        self._target = target
        self._saved: list[tuple[int, int, bytes | None, dict[int, Rule]]] = []
        self._steps = 0
        self.cfa_register = -1
        self.cfa_offset = 0
        self.cfa_expression: bytes | None = None
        self.rules: dict[int, Rule] = {}
        self.initial: dict[int, Rule] = {}

    def run(self, instructions: bytes, location: int) -> None:
        cursor = Cursor(instructions)
        cie, rules = self._cie, self.rules
        while cursor.at < cursor.end:
            self._steps += 1
            if self._steps > _MOST_INSTRUCTIONS:
                raise Malformed("call frame information is too long")
            op = cursor.unsigned(1)
            low = op & 0x3F
            if op >= 0xC0:  # restore
                self._restore(low)
            elif op >= 0x80:  # offset
                offset = cursor.uleb() * cie.data_alignment
                if low <= _LAST_REGISTER:
                    rules[low] = (Kind.OFFSET, offset, b"")
            elif op >= 0x40 or 0x01 <= op <= 0x04:  # advance_loc, set_loc
                if op >= 0x40:
                    location += low * cie.code_alignment
                elif op == 0x01:
                    # Relative to the instruction's own address, unless absolute: no assembler
                    # has written it for decades.
                    if cie.pointer_encoding & 0x70:
                        raise Malformed("DW_CFA_set_loc with a relative address")
                    location = cursor.pointer(cie.pointer_encoding)
                else:
                    location += cursor.unsigned(1 << op - 2) * cie.code_alignment
                if location > self._target:
                    return
            else:
                self._extended(op, cursor)
                rules = self.rules

    def _restore(self, register: int) -> None:
        rule = self.initial.get(register)
        if rule is None:
            self.rules.pop(register, None)
        else:
            self.rules[register] = rule

    def _extended(self, op: int, cursor: Cursor) -> None:
        if op == 0x0E:  # def_cfa_offset
            self._set_offset(cursor.uleb())
        elif op == 0x0C:  # def_cfa
            self._set_cfa(cursor.uleb(), cursor.uleb())
        elif op == 0x0D:  # def_cfa_register
            self._set_cfa(cursor.uleb(), self.cfa_offset)
        elif op == 0x0A:  # remember_state
            if len(self._saved) >= _DEEPEST:
                raise Malformed("call frame information saves too many states")
            self._saved.append(
                (self.cfa_register, self.cfa_offset, self.cfa_expression, dict(self.rules))
            )
        elif op == 0x0B:  # restore_state
            if not self._saved:
                raise Malformed("call frame information restores a state that it did not save")
            (self.cfa_register, self.cfa_offset, self.cfa_expression, self.rules) = (
                self._saved.pop()
            )
        elif op == 0x0F:  # def_cfa_expression
            self.cfa_expression = _expression(cursor)
        elif op == 0x12:  # def_cfa_sf
            self._set_cfa(cursor.uleb(), cursor.sleb() * self._cie.data_alignment)
        elif op == 0x13:  # def_cfa_offset_sf
            self._set_offset(cursor.sleb() * self._cie.data_alignment)
        elif op == 0x2E:  # GNU_args_size
            cursor.uleb()
        elif op != 0x00:  # nop
            self._register_rule(op, cursor)

    def _register_rule(self, op: int, cursor: Cursor) -> None:
        register = cursor.uleb()
        if register >= _MOST_REGISTERS:
            raise Malformed(f"call frame information for register {register}")
        factor = self._cie.data_alignment
        rule: Rule | None
        if op == 0x05:  # offset_extended
            rule = (Kind.OFFSET, cursor.uleb() * factor, b"")
        elif op == 0x06:  # restore_extended
            self._restore(register)
            return
        elif op == 0x07:
            rule = (Kind.UNDEFINED, 0, b"")
        elif op == 0x08:  # same_value
            rule = None
        elif op == 0x09:
            rule = (Kind.REGISTER, cursor.uleb(), b"")
        elif op == 0x10:
            rule = (Kind.EXPRESSION, 0, _expression(cursor))
        elif op == 0x11:  # offset_extended_sf
            rule = (Kind.OFFSET, cursor.sleb() * factor, b"")
        elif op == 0x14:
            rule = (Kind.VALUE_OFFSET, cursor.uleb() * factor, b"")
        elif op == 0x15:
            rule = (Kind.VALUE_OFFSET, cursor.sleb() * factor, b"")
        elif op == 0x16:
            rule = (Kind.VALUE_EXPRESSION, 0, _expression(cursor))
        elif op == 0x2F:  # GNU_negative_offset_extended
            rule = (Kind.OFFSET, -cursor.uleb() * factor, b"")
        else:
            raise Malformed(f"an unknown call frame instruction {op:#x}")
        if rule is None:
            self.rules.pop(register, None)
        elif register <= _LAST_REGISTER:
            self.rules[register] = rule

    def _set_cfa(self, register: int, offset: int) -> None:
        self.cfa_register, self.cfa_offset, self.cfa_expression = register, offset, None

    def _set_offset(self, offset: int) -> None:
        if self.cfa_expression is not None:
            raise Malformed("a CFA offset, where the CFA is an expression")
        self.cfa_offset = offset


def _expression(cursor: Cursor) -> bytes:
    size = cursor.uleb()
    if size > _LONGEST_EXPRESSION:
        raise Malformed("an expression in call frame information is too long")
    return cursor.take(size)
