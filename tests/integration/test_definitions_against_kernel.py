"""The same definition lines, planted in the kernel and by us, record the same, line by line."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.support.build import build_target
from tests.support.copies import private_copy, real_program
from tests.support.kernel_definitions import SCENARIOS, Scenario, offset_of
from tests.support.kernel_events import (
    Event,
    Planted,
    events_of,
    new_group,
    planted_in_kernel,
    recorded,
    run_comparably,
)
from tests.support.oracle import require_tracefs

_LINES = "".join(f"{i * 7919 % 1009} some words {i}\n" for i in range(20)).encode()


def _tracer(probes: Sequence[Planted], output: Path) -> list[str]:
    """The words that put our probes before a command."""
    words = [sys.executable, "-m", "ptrace_uprobes", "-o", str(output), "--format", "text"]
    for probe in probes:
        words += ["-e", probe.definition]
        if probe.filter is not None:
            words += ["--filter", probe.filter]
    return [*words, "--"]


def _alike(kernel: Event | None, ours: Event | None) -> bool:
    """Equal, but for numbers whose memory cannot be read.

    We say `(fault)`; the kernel says so of strings only, and 0 of numbers, since its
    copy_from_user fills what it cannot copy with zeros.
    """
    if kernel is None or ours is None or kernel.name != ours.name:
        return False
    if kernel.text == ours.text:
        return True
    pattern = r"(?:\(fault\)|0x0|0|'\\x00')".join(map(re.escape, ours.text.split("(fault)")))
    return re.fullmatch(pattern, kernel.text) is not None


def _assert_same(expected: Sequence[Event], found: Sequence[Event], *, shown: int = 8) -> None:
    """Fails with the first lines that differ, and with the events that differ in number."""
    pairs = enumerate(zip_longest(expected, found))
    unequal = [(number, one, other) for number, (one, other) in pairs if not _alike(one, other)]
    if not unequal:
        return
    counts = [Counter(event.name for event in events) for events in (expected, found)]
    report = [
        f"{name}: {counts[0][name]} lines, and {counts[1][name]}"
        for name in sorted(counts[0] | counts[1])
        if counts[0][name] != counts[1][name]
    ]
    report += [
        f"line {number}:\n  expected {one}\n  found    {other}"
        for number, one, other in unequal[:shown]
    ]
    pytest.fail("\n".join(report), pytrace=False)


def test_the_definitions_are_at_least_forty() -> None:
    assert sum(len(scenario.lines) for scenario in SCENARIOS) >= 40


@dataclass(frozen=True)
class Runs:
    """The same run, recorded twice by the kernel and once by us."""

    probes: list[Planted]
    kernel: list[Event]
    kernel_again: list[Event]
    ours: list[Event]
    kernel_stdout: bytes
    our_stdout: bytes


def _record(scenario: Scenario, folder: Path) -> Runs:
    require_tracefs()
    stems = [f"{library}." for library in scenario.libraries]
    copy = private_copy(real_program(scenario.program), folder / "copy", *stems, copy_program=True)
    # Its inode too must be run by nobody else.
    anchor = Path(shutil.copy(build_target("fetchargs_anchor.c", "-shared", "-fPIC"), folder))
    group = new_group()
    probes = scenario.probes(copy, group)
    take_page = Planted(f"r:{group}/anchor {anchor}:{offset_of(anchor, 'take_page'):#x}")
    given = folder / "input"
    given.write_bytes(_LINES)
    argv = [str(copy.program), *(word.replace("INPUT", str(given)) for word in scenario.arguments)]
    environment = {**copy.environment, "LD_PRELOAD": str(anchor)}

    by_kernel: list[list[Event]] = []
    for _ in range(2):
        with planted_in_kernel([*probes, take_page]) as instance:
            plain = run_comparably(argv, env=environment)
            by_kernel.append([event for event in recorded(instance) if event.name != "anchor"])
        assert plain.returncode == 0, plain.stderr

    output = folder / "ours.txt"
    probed = run_comparably(argv, env=environment, before=_tracer(probes, output))
    assert probed.returncode == 0, probed.stderr.decode()
    ours = events_of(output.read_text(encoding="utf-8"))
    return Runs(probes, by_kernel[0], by_kernel[1], ours, plain.stdout, probed.stdout)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.program))
def test_every_line_that_the_kernel_records_is_recorded_alike(
    scenario: Scenario, tmp_path: Path
) -> None:
    # GIVEN private copies of a real program and its libraries, and definitions of places in them
    # WHEN the kernel records a run twice, and we once
    runs = _record(scenario, tmp_path)

    # THEN the kernel agrees with itself, so that a third run can be compared, and no definition
    # is idle
    _assert_same(runs.kernel, runs.kernel_again)
    names = {probe.names[1] for probe in runs.probes}
    assert names - {event.name for event in runs.kernel} == set()

    # AND ours is the same, and nobody can tell the runs by their output
    _assert_same(runs.kernel, runs.ours)
    assert runs.our_stdout == runs.kernel_stdout


def test_what_the_kernel_cannot_read_we_record(tmp_path: Path) -> None:
    # GIVEN an immediate string, which is the kernel's own memory and which its uprobes read as
    # the program's; and a pointer that faults before the last step, where the kernel leaves what
    # an earlier event wrote into its buffer
    text = r"""
p:GROUP/constant {sort:entry} text=\"some_words" other=\"more":string
p:GROUP/inner {sort:entry} deep=+0(+8(\0x10)):x32 end=\7
"""

    # WHEN both record them
    runs = _record(Scenario("sort", ["INPUT"], ["libc"], text), tmp_path)
    kernel, ours = (
        {event.name: event.text.partition(" ")[2] for event in events}
        for events in (runs.kernel, runs.ours)
    )

    # THEN the kernel's records are of no use, and ours are
    assert kernel["constant"] == "text=(fault) other=(fault)"
    assert ours["constant"] == 'text="some_words" other="more"'
    assert re.fullmatch("deep=0x[0-9a-f]+ end=0x7", kernel["inner"])
    assert ours["inner"] == "deep=(fault) end=0x7"
