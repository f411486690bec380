"""A program whose symbols lie runs as ever, and its probes are right ones or refused in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.files.layout import layout_of

from tests.support.build import build_target

_SOURCE = """
#include <stdio.h>
__attribute__((noinline)) int work(int n) { printf("work %d\\n", n); fflush(stdout); return n + 1; }
int main(void) { int s = 0; for (int i = 0; i < 3; i++) s = work(s); return s != 3; }
"""


def _damaged(tmp_path: Path, field: str, change: int) -> tuple[Path, bytes]:
    """The program with a field of its symbol `work` changed; and what it prints without us."""
    source = tmp_path / "work.c"
    source.write_text(_SOURCE)
    data = bytearray(build_target(source).read_bytes())
    layout = layout_of(bytes(data))
    table, names = layout.tables["symtab"], layout.parts[".strtab"][0]
    number = next(
        index
        for index in range(table.count)
        if data[names + table.get(data, index, "name") :].startswith(b"work\0")
    )
    table.put(data, number, field, table.get(data, number, field) + change)
    path = tmp_path / "damaged"
    path.write_bytes(data)
    path.chmod(0o755)
    return path, subprocess.run([path], capture_output=True, check=True, timeout=60).stdout


def _probed(path: Path, spec: str = "work") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ptrace_uprobes", "-e", spec, "--count", "--", str(path)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("change", range(9))
def test_a_symbol_inside_of_an_instruction_is_refused_and_any_other_is_probed(
    change: int, tmp_path: Path
) -> None:
    """Before, the trap went into the operand of an instruction, and the program died of it."""
    path, output = _damaged(tmp_path, "value", change)
    result = _probed(path)
    # push %rbp; mov %rsp,%rbp; push %rbx; sub $8,%rsp; then more
    if change in (0, 1, 4, 5):
        assert (result.returncode, result.stdout) == (0, output)
        assert b"\n  work  3 hits\n" in result.stderr
    else:
        assert result.returncode == 1
        assert result.stdout == b""
        lines = result.stderr.splitlines()
        assert len(lines) == 1
        assert b"inside the instruction" in lines[0]


@pytest.mark.parametrize("size", [-1, 1, 1 << 20, 1 << 62])
def test_a_symbol_of_a_size_that_lies_is_probed_where_it_is(size: int, tmp_path: Path) -> None:
    path, output = _damaged(tmp_path, "size", size)
    result = _probed(path)
    assert (result.returncode, result.stdout) == (0, output)
    assert b"\n  work  3 hits\n" in result.stderr


@pytest.mark.parametrize("spec", ["work", "wor?"])
def test_a_function_that_is_falsely_called_indirect_is_not_run_to_find_its_target(
    spec: str, tmp_path: Path
) -> None:
    """Before, it was run as a resolver: the program printed a line more."""
    path, output = _damaged(tmp_path, "info", 10 - 2)  # STT_GNU_IFUNC - STT_FUNC
    assert output.count(b"work") == 3
    result = _probed(path, spec)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"is said to be an indirect function (IFUNC)" in result.stderr
    assert b"error: cannot probe" in result.stderr.splitlines()[-1]


def test_a_symbol_where_nothing_is_mapped_is_an_error(tmp_path: Path) -> None:
    path, _ = _damaged(tmp_path, "value", 1 << 30)
    result = _probed(path)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(b"ptrace-uprobes: error: no symbol 'work'")
