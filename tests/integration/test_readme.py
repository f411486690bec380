"""Every command printed in the README works as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("script", blocks("sh"))
def test_a_command_of_the_readme_works_as_printed(script: str) -> None:
    script = script.replace(".venv/bin/ptrace-uprobes", f"{sys.executable} -m ptrace_uprobes")
    finished = subprocess.run(
        ["bash", "-e", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "error" not in finished.stderr
    if "--explain" in script:
        assert re.search(r"^libc:malloc: 0x.*: boost", finished.stdout, re.MULTILINE)
    else:
        assert re.search(r"^[1-9]\d* hits?, 0 missed; ", finished.stderr, re.MULTILINE)


@pytest.mark.parametrize("program", blocks("python"))
def test_the_library_as_printed_in_the_readme_works(program: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    *lines, last = finished.stdout.splitlines()
    assert last == f"0 {len(lines)} 0"
    assert re.fullmatch(r"\d+ wants \d+ bytes", lines[0])


def test_the_example_shows_registers_data_a_stack_and_the_exit_status() -> None:
    finished = subprocess.run(
        [sys.executable, "examples/watch_sort.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"  data       b'[a-z]+' and b'[a-z]+'", finished.stdout)
    assert re.search(r"rdi=0x[0-9a-f]+", finished.stdout)
    assert re.search(r"\[rsp\+0x00\] 0x[0-9a-f]{16} \S+", finished.stdout)
    assert "sort's exit status: 0" in finished.stdout
