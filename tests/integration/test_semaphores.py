"""`PATH:OFFSET(REF)`: the program's own counter says that a probe is there, while it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.target import parse_report


@pytest.fixture(scope="module")
def program() -> Path:
    return build_target("semaphore.c")


def _file_offset(program: Path, name: str) -> int:
    symbols = subprocess.run(["nm", str(program)], check=True, capture_output=True, text=True)
    address = next(
        int(line.split()[0], 16)
        for line in symbols.stdout.splitlines()
        if line.endswith(f" {name}")
    )
    headers = subprocess.run(
        ["readelf", "-lW", str(program)], check=True, capture_output=True, text=True
    )
    for line in headers.stdout.splitlines():
        words = line.split()
        if words[:1] == ["LOAD"]:
            offset, start, size = (int(words[index], 16) for index in (1, 2, 4))
            if start <= address < start + size:
                return offset + address - start
    raise AssertionError(f"{name} is in no segment")


@pytest.mark.parametrize("follow_forks", [False, True])
def test_a_semaphore_counts_the_probe_while_it_is_planted(
    program: Path, capfd: pytest.CaptureFixture[str], follow_forks: bool
) -> None:
    place = f"{program}:{_file_offset(program, 'probed'):#x}"
    reference = f"({_file_offset(program, 'semaphore'):#x})"
    with pu.launch([str(program)], follow_forks=follow_forks) as engine:
        first = engine.probe(f"p:g/e {place}{reference}")
        second = engine.probe("probed", lambda hit: removed.remove())
        removed = engine.probe(f"p:g/other {place}{reference}")
        result = engine.run(timeout=30)
    assert result.exit_status == 0
    report = parse_report(capfd.readouterr().out)
    # One site has it, however many probes name it there.
    assert report["before"] == 1
    assert report["child"] == (1 if follow_forks else 0)
    assert report["after"] == 1
    assert (first.hits, second.hits) == (1, 1)


def test_a_semaphore_is_as_it_was_when_the_probe_is_gone(
    program: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = (
        f"p:g/e {program}:{_file_offset(program, 'probed'):#x}"
        f"({_file_offset(program, 'semaphore'):#x})"
    )
    with pu.launch([str(program)]) as engine:
        probe = engine.probe(spec, lambda hit: probe.remove())
        engine.run(timeout=30)
    report = parse_report(capfd.readouterr().out)
    assert (report["before"], report["after"]) == (1, 0)
