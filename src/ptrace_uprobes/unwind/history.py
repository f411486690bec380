"""The registers of the frames below: found when a rule asks for one, which is seldom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.unwind.cursor import Malformed
from ptrace_uprobes.unwind.expression import evaluate
from ptrace_uprobes.unwind.memory import StackMemory
from ptrace_uprobes.unwind.row import Kind, Row, Rule

__all__ = ["CONVENTIONS", "Convention", "History", "Level"]


@dataclass(frozen=True, slots=True)
class Convention:
    """How DWARF numbers an architecture's registers."""

    word: int
    """Bytes in one."""
    names: tuple[str, ...]
    """Of the kernel's user_regs_struct, by their numbers; the last is the return address."""
    bp: int
    sp: int
    ra: int


CONVENTIONS: Final = {
    # System V ABI, AMD64 supplement, figure 3.36.
    62: Convention(
        word=8,
        names=(
            *("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
        ),
        bp=6,
        sp=7,
        ra=16,
    ),
    # System V ABI, Intel386 supplement, table 2.14.
    3: Convention(
        word=4,
        names=("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip"),
        bp=5,
        sp=4,
        ra=8,
    ),
}
"""By the `e_machine` of the ELF header."""
_DEEPEST: Final = 100
"""Rules that ask for registers by rules that ask for registers."""

Level = tuple[Row | None, int, int, int, int, int]
"""How a frame was left: its row, CFA, SP, BP, PC, and its module's load bias."""


class History:
    def __init__(
        self,
        registers: object,
        memory: StackMemory,
        levels: list[Level],
        convention: Convention,
    ) -> None:
        """`levels`: an empty list, for the frames that are left."""
        self.levels = levels
        self._convention = convention
        self._mask = (1 << 8 * convention.word) - 1
        self._registers = registers
        self.memory = memory
        self._known: dict[tuple[int, int], int] = {}
        self._depth = 0

    def cfa(self, row: Row, level: Level) -> int:
        """The CFA of the innermost level that is known, by `row`."""
        number = len(self.levels)
        if row.cfa_expression is None:
            return self._value(row.cfa_register, number, level) + row.cfa_offset & self._mask
        return evaluate(
            row.cfa_expression,
            (),
            lambda register: self._value(register, number, level),
            self.memory.number,
            level[5],
            self._convention.word,
        )

    def applied(self, rule: Rule, number: int, level: Level) -> int:
        """The caller's register that `rule`, of this level, gives."""
        kind, value, expression = rule
        cfa = level[1]
        if kind == Kind.OFFSET:
            return self.memory.word(cfa + value & self._mask)
        if kind == Kind.VALUE_OFFSET:
            return cfa + value & self._mask
        if kind == Kind.REGISTER:
            return self._value(value, number, level)
        if kind == Kind.UNDEFINED:
            raise Malformed("a register is needed that CFI calls lost")
        result = evaluate(
            expression,
            (cfa,),
            lambda register: self._value(register, number, level),
            self.memory.number,
            level[5],
            self._convention.word,
        )
        return self.memory.word(result) if kind == Kind.EXPRESSION else result

    def _value(self, register: int, number: int, level: Level) -> int:
        """A register as that level's function sees it."""
        convention = self._convention
        if register == convention.sp:
            return level[2]
        if register == convention.bp:
            return level[3]
        if register == convention.ra:
            return level[4]
        if register > convention.ra:
            raise Malformed(f"CFI asks for register {register}")
        key = (number, register)
        known = self._known.get(key)
        if known is None:
            self._depth += 1
            if self._depth > _DEEPEST:
                raise Malformed("CFI sends from register to register")
            known = self._known[key] = self._find(register, number)
            self._depth -= 1
        return known

    def _find(self, register: int, number: int) -> int:
        for below in range(number - 1, -1, -1):
            level = self.levels[below]
            if level[0] is not None:
                rule = level[0].rules.get(register)
                if rule is not None:
                    return self.applied(rule, below, level)
        value: int = getattr(self._registers, self._convention.names[register])
        return value & self._mask
