"""`PATH:OFFSET(REF)`: the program's own counter says that a probe is there, while it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes.linux.maps import Mapping, read_maps
from tests.support.build import build_target
from tests.support.command import run
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


@pytest.mark.parametrize("wrong", ["text", "nowhere"])
def test_a_semaphore_that_is_none_is_said_once_and_not_written(
    program: Path, capfd: pytest.CaptureFixture[str], wrong: str
) -> None:
    # GIVEN an offset that leads to code, or to nothing
    offset = {"text": _file_offset(program, "main"), "nowhere": 0x7654321}[wrong]
    spec = f"p:g/e {program}:{_file_offset(program, 'probed'):#x}({offset:#x})"

    # WHEN it is named as a semaphore
    warnings: list[str] = []
    with pu.launch([str(program)], on_warning=warnings.append) as engine:
        assert engine.pid is not None
        mapping = _text_mapping(engine.pid, program)
        main = mapping.start + _file_offset(program, "main") - mapping.offset
        before = _read(engine.pid, main)
        engine.probe(spec)
        engine.probe("main", lambda hit: seen.append(_read(hit.pid, main)))
        seen: list[bytes] = []
        result = engine.run(timeout=30)

    # THEN the user is told once by which probe, and nothing was written there
    (warning,) = warnings
    assert warning.startswith(f"{spec}: no semaphore is at offset {offset:#x} of {program}")
    assert result.exit_status == 0
    assert parse_report(capfd.readouterr().out)["before"] == 0
    assert [code[1:] for code in seen] == [before[1:]]  # but for our trap


def test_the_command_says_it_in_one_line(program: Path) -> None:
    offset = _file_offset(program, "main")
    spec = f"p:g/e {program}:{_file_offset(program, 'probed'):#x}({offset:#x})"
    probed = run("--count", "-e", spec, "--", program)
    assert probed.status == 0
    why = "no writable memory has it; the probe is counted nowhere"
    (line,) = (line for line in probed.stderr.splitlines() if "warning" in line)
    where = f"{spec}: no semaphore is at offset {offset:#x} of {program}"
    assert line == f"ptrace-uprobes: warning: {where}: {why}"


def _text_mapping(pid: int, program: Path) -> Mapping:
    return next(m for m in read_maps(pid) if m.path == str(program) and m.is_executable)


def _read(pid: int, address: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(address)
        return memory.read(4)
