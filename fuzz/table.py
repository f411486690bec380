"""`python -m fuzz.table`: write docs/instructions.md, what the planner does with each instruction.

The names are the second decoder's; the treatment is asked of `plan`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import capstone
import iced_x86
from iced_x86 import Decoder, DecoderOptions, Instruction, OpKind, Register

from fuzz.mode import mode_of
from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.ssol.plan import Mechanism, Plan, plan

__all__ = ["PATH", "capstone_of", "table"]

PATH: Final = Path(__file__).resolve().parent.parent / "docs" / "instructions.md"
_SITES: Final = {64: VirtAddr(0x5555_0000_1000), 32: VirtAddr(0x5655_1000)}
_TAIL: Final = bytes.fromhex("24112233440102030405060708")
_PREFIXES: Final = {
    64: (b"", b"\x66", b"\xf2", b"\xf3", b"\x48", b"\x66\x48", b"\xf3\x48"),
    32: (b"", b"\x66", b"\xf2", b"\xf3"),
}
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
_HEADING_32: Final = """\
## In 32-bit code

As above, but for what follows: the mnemonics that are not in 64-bit code, or have other plans
there.
`make fuzz` runs these in a 32-bit process.
"""
_Plans: TypeAlias = dict[tuple[str, str], dict[str, set[str]]]
"""Of each treatment the mnemonics, and of each of these the kinds of operands."""


def _heads(bits: int) -> Iterator[tuple[bytes, bool]]:
    """Everything before ModRM, and whether ModRM.reg is to take all its values."""
    for prefix in _PREFIXES[bits]:
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
        bare = instruction.memory_base == instruction.memory_index == Register.NONE
        return "absolute" if bare else "memory"
    return "register" if OpKind.REGISTER in kinds else "other"


def _how(made: Plan) -> tuple[str, str]:
    if made.refusal is not None:
        return made.mechanism.value, made.refusal.value
    if made.reason is not None:
        return made.mechanism.value, made.reason
    return made.mechanism.value, ""


def _plans(bits: int) -> _Plans:
    found: _Plans = defaultdict(lambda: defaultdict(set))
    seen: set[tuple[int, str]] = set()
    site, architecture = _SITES[bits], mode_of(bits).architecture
    for head, is_group in _heads(bits):
        for reg in range(8) if is_group else (1,):
            for form in _FORMS:
                code = (head + bytes([form | reg << 3]) + _TAIL)[:15]
                named = Decoder(bits, code, DecoderOptions.NONE, ip=site).decode()
                if named.is_invalid:
                    continue
                kind = _kind(named)
                if (named.code, kind) in seen:
                    continue
                seen.add((named.code, kind))
                made = plan(code[: named.len], site, architecture)
                is_far = (
                    named.is_call_far
                    or named.is_call_far_indirect
                    or named.is_jmp_far
                    or named.is_jmp_far_indirect
                )
                name = _MNEMONICS[named.mnemonic] + (" far" if is_far else "")
                found[_how(made)][name].add(kind)
    return found


def table() -> str:
    """The document."""
    heading = _HEADING.format(version_line=_VERSION_LINE, capstone=capstone.__version__)
    wide, narrow = _plans(64), _plans(32)
    lines = [heading, *_sections(wide, "##"), _HEADING_32]
    lines += _sections(_differing(narrow, wide), "###")
    return "\n".join(lines).rstrip("\n") + "\n"


def _differing(plans: _Plans, others: _Plans) -> _Plans:
    """Those of the mnemonics of which anything is otherwise in `others`, in all of their forms."""

    def treatments(of: _Plans) -> dict[str, dict[tuple[str, str], set[str]]]:
        turned: dict[str, dict[tuple[str, str], set[str]]] = defaultdict(dict)
        for how, names in of.items():
            for name, kinds in names.items():
                # What is relative to RIP in the one is a plain address in the other.
                turned[name][how] = {
                    "absolute" if kind == "RIP-relative" else kind for kind in kinds
                }
        return turned

    ours, theirs = treatments(plans), treatments(others)
    return {
        how: {name: kinds for name, kinds in names.items() if ours[name] != theirs.get(name)}
        for how, names in plans.items()
    }


def _sections(found: _Plans, level: str) -> list[str]:
    homes: dict[str, int] = defaultdict(int)
    for names in found.values():
        for name in names:
            homes[name] += 1
    lines = []
    for mechanism in (Mechanism.BOOST, Mechanism.STEP, Mechanism.EMULATE, Mechanism.REFUSE):
        if any(names for how, names in found.items() if how[0] == mechanism.value):
            lines.append(f"{level} {mechanism.value.capitalize()}\n")
        for (value, reason), names in sorted(found.items()):
            if value != mechanism.value or not names:
                continue
            if reason:
                lines.append(f"{level}# {reason[0].upper()}{reason[1:]}\n")
            lines.append(f"{len(names)} mnemonic{'s' if len(names) > 1 else ''}:")
            lines.append(_wrapped(sorted(_said(name, names[name], homes[name]) for name in names)))
    return lines


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
