"""One name in a file of 100,000 symbols, beside `nm FILE | grep NAME`.

Interleaved, one of each in turn, on one file in the page cache. The promise: under 5 times
`nm | grep`, and a second look-up in the same file is free. Both sides are processes in
the first comparison: with the interpreter's start and the import of what finds symbols, as a
command has it. In the others ours is a call in a process that runs already, as in a traced
program's life: there a file is opened anew, or was opened before.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.support.build import build_target, cache_dir

from bench.interval import median_with_interval
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.symbols.source import FileSource

__all__ = ["main", "many_symbols"]

_SYMBOLS = 100_000
_ROUNDS = 15
_PROMISED = 5.0
_FRESH = (
    "import sys; from ptrace_uprobes.symbols.image import open_image;"
    "found = open_image(sys.argv[1]).lookup(sys.argv[2]); print(hex(found[0].address))"
)


def _name(number: int) -> str:
    """Names as long, and as much alike, as those of a large program."""
    return f"module_{number * 7919 % 997:03}_{'sub' * (number % 7)}function_{number:06}"


@functools.cache
def many_symbols(count: int = _SYMBOLS) -> Path:
    """A program with `count` functions of one instruction, made by the assembler."""
    source = cache_dir() / f"symbols-{count}.S"
    lines = [".text"]
    for number in range(count):
        name = _name(number)
        lines.append(f".globl {name}\n.type {name},@function\n{name}: ret\n.size {name},1")
    lines.append(".globl main\n.type main,@function\nmain: xor %eax,%eax\nret\n.size main,.-main")
    lines.append('.section .note.GNU-stack,"",@progbits')
    text = "\n".join(lines) + "\n"
    if not source.exists() or source.read_text() != text:
        source.write_text(text)
    return build_target(source)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _command(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment())


@functools.cache
def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _find(path: str, name: str) -> Image:
    image = Image(FileSource(path, path), path)
    if len(image.lookup(name)) != 1:
        raise RuntimeError(f"{name} is not found")
    return image


def _thousand_names(path: str) -> float:
    """Seconds a name, when a thousand are asked for one after the other."""
    image = Image(FileSource(path, path), path)
    names = [_name(number) for number in random.Random(2).sample(range(_SYMBOLS), 1000)]

    def look() -> None:
        for name in names:
            image.lookup(name)

    return _seconds(look) / len(names)


def _report(what: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    ratio = median_with_interval([a / b for a, b in zip(ours, theirs, strict=True)])
    print(f"{what:58} {statistics.median(ours) * 1e3:9.3f} ms   {ratio} times nm | grep")


def main() -> None:
    if shutil.which("nm") is None:
        print("not measured: nm is not installed")
        return
    path = str(many_symbols())
    picked = random.Random(1).sample(range(_SYMBOLS), 2 * _ROUNDS)
    pairs = [(_name(a), _name(b)) for a, b in zip(picked[::2], picked[1::2], strict=True)]
    theirs: list[float] = []
    fresh: list[float] = []
    started: list[float] = []
    opened: list[float] = []
    other: list[float] = []
    same: list[float] = []
    for name, second in pairs:
        theirs.append(_seconds(partial(_command, ["sh", "-c", f"nm {path} | grep {name}"])))
        fresh.append(_seconds(partial(_command, [sys.executable, "-c", _FRESH, path, name])))
        started.append(_seconds(partial(_command, [sys.executable, "-c", "pass"])))
        opened.append(_seconds(partial(_find, path, name)))
        image = _find(path, name)
        other.append(_seconds(partial(image.lookup, second)))
        same.append(_seconds(partial(image.lookup, second)))
    size = os.path.getsize(path)
    print(f"{_SYMBOLS:,} symbols, {size:,} bytes; medians of {_ROUNDS}, ratios with 95% intervals")
    print(f"{'nm FILE | grep NAME, a process':58} {statistics.median(theirs) * 1e3:9.3f} ms")
    _report("ours, a process: python starts, imports, finds it", fresh, theirs)
    _report("  of which: python starts and does nothing", started, theirs)
    _report("ours, in a process: the file is opened, the name is found", opened, theirs)
    _report("  a second name in the same file", other, theirs)
    _report("  the same name again", same, theirs)
    many = [_thousand_names(path) for _ in theirs]
    _report("  a thousand names (-e @FILE), each", many, theirs)
    ratio = median_with_interval([a / b for a, b in zip(fresh, theirs, strict=True)])
    verdict = "holds" if ratio.high < _PROMISED else "does not hold"
    print(f"promise: a fresh process takes under {_PROMISED:.0f} times nm | grep: {verdict}")


if __name__ == "__main__":
    main()
