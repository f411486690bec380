"""Programs that are made to a size: by their number of functions, or of symbols."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.support.build import TARGETS, build_target, cache_dir

__all__ = ["SYMBOLS", "many_functions", "many_symbols", "symbol_name"]

SYMBOLS = 100_000


@functools.cache
def many_functions(count: int) -> Path:
    """A program with `count` functions called f00000, f00001 and so on; it waits on its input."""
    lines = [f'#include "{TARGETS / "target.h"}"']
    lines.extend(
        f"NOINLINE long f{number:05}(long a) {{ return a * {number} + 1; }}"
        for number in range(count)
    )
    lines.append("int main(void) { say_ready(); wait_go(); return 5; }")
    return _build(f"functions-{count}.c", lines, "-O0")


def symbol_name(number: int) -> str:
    """Names as long, and as much alike, as those of a large program."""
    return f"module_{number * 7919 % 997:03}_{'sub' * (number % 7)}function_{number:06}"


@functools.cache
def many_symbols(count: int = SYMBOLS) -> Path:
    """A program with `count` functions of one instruction, made by the assembler."""
    lines = [".text"]
    for number in range(count):
        name = symbol_name(number)
        lines.append(f".globl {name}\n.type {name},@function\n{name}: ret\n.size {name},1")
    lines.append(".globl main\n.type main,@function\nmain: xor %eax,%eax\nret\n.size main,.-main")
    lines.append('.section .note.GNU-stack,"",@progbits')
    return _build(f"symbols-{count}.S", lines)


def _build(file: str, lines: list[str], *flags: str) -> Path:
    source = cache_dir() / file
    text = "\n".join(lines) + "\n"
    if not source.exists() or source.read_text() != text:
        source.write_text(text)
    return build_target(source, *flags)
