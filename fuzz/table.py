"""`python -m fuzz.table`: write docs/instructions.md, what the planner does with each instruction.

The names are the second decoder's; the treatment is asked of `plan`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import capstone
import iced_x86
from iced_x86 import Decoder, DecoderOptions, Instruction, OpKind

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.ssol.plan import Mechanism, Plan, plan

__all__ = ["PATH", "capstone_of", "table"]

PATH: Final = Path(__file__).resolve().parent.parent / "docs" / "instructions.md"
_SITE: Final = VirtAddr(0x5555_0000_1000)
_TAIL: Final = bytes.fromhex("24112233440102030405060708")
_PREFIXES: Final = (b"", b"\x66", b"\xf2", b"\xf3", b"\x48", b"\x66\x48", b"\xf3\x48")
_ESCAPES: Final = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
_GROUPS: Final = (0x01, 0x12, 0x71, 0x72, 0x73, 0xAE, 0xC6, 0xC7, 0xF3)
"""Vector opcodes of which ModRM.reg is a part."""
_FORMS: Final = (0x05, 0x00, 0xC0)
_MNEMONICS: Final = {
    value: name.lower().rstrip("_")
    for name, value in vars(iced_x86.Mnemonic).items()
    if isinstance(value, int) and not name.startswith("_")
}
_VERSION_LINE: Final = "Decoded with capstone "
_HEADING: Final = """\
# What becomes of each instruction

Made by `python -m fuzz.table` from the planner; a test compares. {version_line}{capstone}.

Each instruction has the plan that `auto` gives it:
[stepping_out_of_line.md](stepping_out_of_line.md) has the plans. `make fuzz` compares each plan
with the processor, bit by bit, and says how many forms of instructions the processor at hand has
executed. In brackets are the operands meant, where a mnemonic has several plans.
"""


def _heads() -> Iterator[tuple[bytes, bool]]:
    """Everything before ModRM, and whether ModRM.reg is to take all its values."""
    for prefix in _PREFIXES:
        for escape in _ESCAPES:
            for opcode in range(256):
                yield prefix + escape + bytes([opcode]), True
    for opcode in range(256):
        is_group = opcode in _GROUPS
        for pp in range(4):
            for wide in (0, 0x80):
                for number in (1, 2, 3, 5, 6, 7):
                    for length in (0, 4):
                        head = bytes([0xC4, 0xE0 | number, wide | 0x78 | length | pp, opcode])
                        yield head, is_group
                    for length in (0x08, 0x28, 0x48):
                        third = wide | 0x7C | pp
                        yield bytes([0x62, 0xF0 | number, third, length, opcode]), is_group
        for number in (8, 9, 10):
            for third in (0x78, 0x7C, 0xF8):
                yield bytes([0x8F, 0xE0 | number, third, opcode]), is_group or opcode < 0x20


def _kind(instruction: Instruction) -> str:
    if instruction.is_ip_rel_memory_operand:
        return "RIP-relative"
    kinds = [instruction.op_kind(number) for number in range(instruction.op_count)]
    if OpKind.MEMORY in kinds:
        return "memory"
    return "register" if OpKind.REGISTER in kinds else "other"


def _how(made: Plan) -> tuple[str, str]:
    if made.refusal is not None:
        return made.mechanism.value, made.refusal.value
    if made.reason is not None:
        return made.mechanism.value, made.reason
    return made.mechanism.value, ""


def _plans() -> dict[tuple[str, str], dict[str, set[str]]]:
    """Of each treatment the mnemonics, and of each of these the kinds of operands."""
    found: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    seen: set[tuple[int, str]] = set()
    for head, is_group in _heads():
        for reg in range(8) if is_group else (1,):
            for form in _FORMS:
                code = (head + bytes([form | reg << 3]) + _TAIL)[:15]
                named = Decoder(64, code, DecoderOptions.NONE, ip=_SITE).decode()
                if named.is_invalid:
                    continue
                kind = _kind(named)
                if (named.code, kind) in seen:
                    continue
                seen.add((named.code, kind))
                made = plan(code[: named.len], _SITE)
                is_far = (
                    named.is_call_far or named.is_call_far_indirect or named.is_jmp_far_indirect
                )
                name = _MNEMONICS[named.mnemonic] + (" far" if is_far else "")
                found[_how(made)][name].add(kind)
    return found


def table() -> str:
    """The document."""
    found = _plans()
    homes: dict[str, int] = defaultdict(int)
    for names in found.values():
        for name in names:
            homes[name] += 1
    lines = [_HEADING.format(version_line=_VERSION_LINE, capstone=capstone.__version__)]
    for mechanism in (Mechanism.BOOST, Mechanism.STEP, Mechanism.EMULATE, Mechanism.REFUSE):
        lines.append(f"## {mechanism.value.capitalize()}\n")
        for (value, reason), names in sorted(found.items()):
            if value != mechanism.value:
                continue
            if reason:
                lines.append(f"### {reason[0].upper()}{reason[1:]}\n")
            lines.append(f"{len(names)} mnemonic{'s' if len(names) > 1 else ''}:")
            lines.append(_wrapped(sorted(_said(name, names[name], homes[name]) for name in names)))
    return "\n".join(lines).rstrip("\n") + "\n"


def _said(name: str, kinds: set[str], homes: int) -> str:
    return f"`{name}`" if homes == 1 else f"`{name}` ({', '.join(sorted(kinds))})"


def _wrapped(words: list[str]) -> str:
    lines = [""]
    for word in words:
        more = word if word == words[-1] else f"{word},"
        if len(lines[-1]) + len(more) > 98:
            lines.append("")
        lines[-1] += f" {more}" if lines[-1] else more
    return "\n".join(lines) + "\n"


def capstone_of(document: str) -> str:
    """The version of capstone that a document was made with."""
    return document.partition(_VERSION_LINE)[2].partition("\n")[0].rstrip(".")


if __name__ == "__main__":
    PATH.write_text(table())
    print(f"wrote {PATH}", file=sys.stderr)
