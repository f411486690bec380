"""Every command printed in the README and in docs/ works as printed.

In docs/ the blocks of a page that are marked `sh` are run one after the other, in one folder;
what a command prints is marked `console`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.oracle import require_tracefs

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "docs").rglob("*.md")}
MINE = Path("/sys/kernel/tracing/instances/mine")


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


@pytest.mark.parametrize("page", [page for page in PAGES if blocks("sh", PAGES[page])])
def test_the_commands_of_a_page_work_as_printed(page: str, tmp_path: Path) -> None:
    scripts = blocks("sh", PAGES[page])
    if any("tracing/instances" in script for script in scripts):
        require_tracefs()
        if not (MINE.parent.parent / "events/syscalls/sys_enter_write").exists():
            pytest.skip("/sys/kernel/tracing has no system call events (CONFIG_FTRACE_SYSCALLS)")
    # GIVEN the words that the pages sort, and our command on the PATH
    (tmp_path / "words.txt").write_text("pear\napple\nquince\nfig\n")
    command = tmp_path / "bin" / "ptrace-uprobes"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ptrace_uprobes "$@"\n')
    command.chmod(0o755)
    path = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    try:
        for script in scripts:
            finished = subprocess.run(
                ["bash", "-e", "-c", script],
                cwd=tmp_path,
                env=path,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            # THEN each succeeds, and nothing is doubted
            assert finished.returncode == 0, finished.stderr
            assert finished.stderr == ""
    finally:
        if MINE.exists():
            (MINE / "events" / "enable").write_text("0")
            MINE.rmdir()
    if page == "docs/timeline.md":
        both = (tmp_path / "both.txt").read_text()
        assert both.count(": write: (0x") == 2  # from the marker, and merged
        assert ": sys_write(" in both or "sys_enter_write" in both


@pytest.mark.parametrize("page", PAGES)
def test_a_block_with_our_command_is_run_or_marked_as_what_a_terminal_shows(page: str) -> None:
    for language, text in re.findall(
        r"^```(\S*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL
    ):
        assert "ptrace-uprobes" not in text or language in ("sh", "console"), text


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
