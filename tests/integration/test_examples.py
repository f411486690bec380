"""The proposal's usage examples run as printed, and show what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WORDS = ["pear", "apple", "quince", "fig"]


def run(name: str) -> list[str]:
    """The lines that the example prints, run by the command in its own docstring."""
    for needed in ("cc", "objdump"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    text = (ROOT / "examples" / name).read_text()
    (command,) = re.findall(r"^    python (examples/\S+)$", text, re.MULTILINE)
    assert command == f"examples/{name}"
    finished = subprocess.run(
        [sys.executable, command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return finished.stdout.splitlines()


def address(lines: list[str], function: str) -> int:
    """What objdump printed."""
    assert lines[0].startswith("$ objdump -d ")
    match = re.fullmatch(rf"([0-9a-f]+) <{re.escape(function)}>:", lines[1])
    assert match
    return int(match[1], 16)


def test_a_handler_for_malloc_in_a_running_application() -> None:
    lines = run("utrace_malloc_handler.py")
    address(lines, "malloc@plt")
    sizes = [re.fullmatch(r"  (\d+) bytes for main\+0x[0-9a-f]+", line) for line in lines[3:-1]]
    numbers = [int(match[1]) for match in sizes if match]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert re.fullmatch(r"removed; process \d+ is running", lines[-1])


def test_the_registers_at_malloc_in_a_running_application() -> None:
    lines = run("utrace_malloc_registers.py")
    vaddr = address(lines, "malloc@plt")
    shown = [re.search(r"rip=(0x[0-9a-f]+)  rdi=(0x[0-9a-f]+)  rsp=", line) for line in lines[3:-1]]
    values = [(int(match[1], 16), int(match[2], 16)) for match in shown if match]
    first = values[0][1]
    assert values == [(vaddr, first + number) for number in range(4)]
    assert re.fullmatch(r"removed; process \d+ is running", lines[-1])


def test_a_handler_for_foo_in_an_application_yet_to_be_started() -> None:
    lines = run("utrace_foo_handler.py")
    address(lines, "foo")
    calls = [line.partition(" in process")[0] for line in lines if line.startswith("  foo(")]
    assert calls == [f"  foo({word!r}, {number})" for number, word in enumerate(WORDS)]
    assert "appln: the sum is 24" in lines
    assert re.fullmatch(r"process \d+ has ended with status 0", lines[-1])


def test_the_registers_at_foo_in_an_application_yet_to_be_started() -> None:
    lines = run("utrace_foo_registers.py")
    vaddr = address(lines, "foo")
    shown = [line for line in lines if line.startswith("  rip=")]
    assert [int(line.split()[0][4:], 16) for line in shown] == [vaddr] * 4
    assert [int(line.split()[2][4:], 16) for line in shown] == [0, 1, 2, 3]
    data = [line.removeprefix("    data at rdi: ") for line in lines if "data at rdi" in line]
    assert data == [repr((word + "\0\0").encode()[:5]) for word in WORDS]
    stacks = [line for line in lines if line.startswith("    stack: foo < main")]
    assert len(stacks) == 4
    assert "appln: the sum is 24" in lines
    assert re.fullmatch(r"process \d+ has ended with status 0", lines[-1])
