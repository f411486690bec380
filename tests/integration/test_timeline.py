"""Hits and the kernel's events stand in one trace, in the order in which they happened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import COMMAND, run
from tests.support.oracle import require_tracefs

WORDS = "".join(f"{number}\n" for number in range(40000, 0, -1))


@pytest.fixture
def instance() -> Iterator[Path]:
    """An instance of the kernel's trace of our own, on CLOCK_MONOTONIC."""
    path = require_tracefs() / "instances" / f"ptu_timeline_{os.getpid()}"
    path.mkdir()
    try:
        (path / "trace_clock").write_text("mono")
        (path / "buffer_size_kb").write_text("8192")
        yield path
    finally:
        (path / "events" / "enable").write_text("0")
        path.rmdir()


def _enable(instance: Path, *events: str) -> None:
    """The events; where the kernel was built without those of single system calls, skip."""
    for event in events:
        enable = instance / "events" / event / "enable"
        if not enable.exists():
            pytest.skip(f"this kernel has no event {event}")
        enable.write_text("1")


def _saved(instance: Path) -> str:
    (instance / "tracing_on").write_text("0")
    return (instance / "trace").read_text(errors="replace")


def _of_thread(trace: str, tid: int) -> list[str]:
    """The thread's events and our hits of it, by their names, in the trace's order."""
    names = []
    for line in trace.splitlines():
        match = re.match(r" *(\S.*?)-(\d+) +\[\d+\] \S+ +\d+\.\d+: (.*)", line)
        if match is None:
            continue
        number, text = int(match[2]), match[3]
        if hit := re.match(r"tracing_mark_write: (\S+)-(\d+) +\[\d+\] \d+\.\d+: (\S+):", text):
            if int(hit[2]) == tid:
                names.append(hit[3])
        elif number == tid:
            names.append(re.sub(r"\W.*", "", text) + (" returns" if " -> " in text else ""))
    return names


@pytest.mark.parametrize("program", ["sort", "python3"])
def test_a_hit_in_the_kernels_trace_stands_between_that_threads_events(
    instance: Path, program: str, tmp_path: Path
) -> None:
    # GIVEN a kernel trace of write(2), and of the scheduler
    _enable(instance, "syscalls/sys_enter_write", "syscalls/sys_exit_write", "sched/sched_switch")
    words = tmp_path / "words"
    words.write_text(WORDS)
    script = "import os\nfor n in range(20): os.write(1, b'x')"
    command = ["sort", str(words)] if program == "sort" else [sys.executable, "-S", "-c", script]

    # WHEN both ends of write are probed, with each hit in that trace too
    hits = tmp_path / "hits"
    probed = run(
        *("-e", "libc:write", "-e", "libc:write%return", "-o", hits),
        *("--trace-marker", "--trace-instance", instance.name, "--", *command),
    )
    trace = _saved(instance)

    # THEN there is no doubt, and the program did what it does
    assert probed.stderr == ""
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert probed.stdout == plain.stdout

    # AND the kernel's own order is: hit, entry, exit, hit of the return; over and over
    tids = {int(n) for n in re.findall(r"^ *\S+-(\d+) +\[", hits.read_text(), re.MULTILINE)}
    (tid,) = tids
    names = [name for name in _of_thread(trace, tid) if name != "sched_switch"]
    round_trip = ["write", "sys_write", "sys_write returns", "write%return"]
    if "sys_enter_write" in names:
        round_trip[1:3] = ["sys_enter_write", "sys_exit_write"]
    # python3 writes at its end too; sort in blocks
    first = names.index("write")
    assert len(names) - first >= len(round_trip) * (20 if program == "python3" else 1)
    for at in range(first, len(names), len(round_trip)):
        assert names[at : at + len(round_trip)] == round_trip

    # AND the scheduler's events are in it, of the same thread
    assert "sched_switch" in _of_thread(trace, tid)


def test_the_same_trace_saved_and_merged_has_the_same_order(instance: Path, tmp_path: Path) -> None:
    # GIVEN a kernel trace and hits that were recorded apart
    _enable(instance, "syscalls/sys_enter_write", "syscalls/sys_exit_write")
    hits, trace, merged = (tmp_path / name for name in ("hits", "trace", "merged"))
    probed = run("-e", "libc:write", "-e", "libc:write%return", "-o", hits, "--", "echo", "hello")
    assert probed.stdout == "hello\n"
    trace.write_text(_saved(instance))

    # WHEN they are merged
    merging = run("--merge", trace, "-o", merged, hits)
    assert (merging.status, merging.stderr) == (0, "")
    lines = merged.read_text().splitlines()

    # THEN no line is lost, and the thread's are in order
    assert sorted(lines) == sorted(trace.read_text().splitlines() + hits.read_text().splitlines())
    (tid,) = set(re.findall(r"-(\d+) +\[\d+\] \S+ write:", merged.read_text()))
    ours = [line for line in lines if re.match(rf" *\S+-{tid} ", line)]
    kinds = [
        "hit" if re.search(r"\.\d{6}: write(%return)?:", line) else "event"
        for line in ours
        if "write" in line
    ]
    start = kinds.index("hit")
    assert kinds[start : start + 4] == ["hit", "event", "event", "hit"]
    assert lines[-4].startswith("2 hits, 0 missed")

    # AND to standard output it is the same
    assert run("--merge", trace, hits).stdout == merged.read_text()


def test_a_run_merges_into_its_output_when_it_has_ended(instance: Path, tmp_path: Path) -> None:
    # GIVEN a command that saves the kernel's trace itself, at its end
    _enable(instance, "syscalls/sys_enter_write")
    trace, merged = tmp_path / "trace", tmp_path / "merged"
    script = f"echo hello; echo 0 > {instance}/tracing_on; exec cat {instance}/trace > {trace}"
    # WHEN
    probed = run(
        *("-e", "libc:write", "--merge", trace, "-o", merged, "--format", "jsonl"),
        *("--", "sh", "-c", script),
    )
    # THEN hits and events are records of one file
    assert (probed.status, probed.stdout, probed.stderr) == (0, "hello\n", "")
    text = merged.read_text()
    assert '{"type":"kernel","time_ns":' in text
    assert '{"type":"hit","time_ns":' in text
    assert text.splitlines()[-1].startswith('{"type":"summary"')


def test_a_trace_that_cannot_be_merged_leaves_the_hits(tmp_path: Path) -> None:
    hits = tmp_path / "hits"
    failed = run("-e", "libc:write", "--merge", tmp_path / "none", "-o", hits, "echo", "hello")
    assert failed.status == 1
    assert failed.error == f"cannot read {tmp_path / 'none'}: No such file or directory"
    assert ": write: (0x" in hits.read_text()
    assert list(tmp_path.iterdir()) == [hits]


def test_hits_that_are_given_as_the_trace_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    hits, again, merged = (tmp_path / name for name in ("hits", "again", "merged"))
    run("-e", "libc:write", "-o", hits, "echo", "hello")
    again.symlink_to(hits)
    text = hits.read_text()
    for trace in (hits, again):
        refused = run("--merge", trace, "-o", merged, hits)
        assert refused.status == 2
        assert refused.error == f"{hits} is given as the trace and as the hits"
    again.unlink()
    again.write_text(text)
    refused = run("--merge", again, "-o", merged, hits)
    assert refused.status == 1
    assert refused.error.startswith(f"cannot merge {again}: it is a file of hits")
    assert not merged.exists()
    assert hits.read_text() == text


def test_an_output_that_cannot_be_merged_into_is_refused_before_the_command_runs() -> None:
    failed = run("-e", "libc:write", "--merge", "trace", "-o", "/dev/null", "echo", "hello")
    assert failed.status == 1
    assert "/dev/null" in failed.error
    assert failed.stdout == ""


def test_times_of_another_clock_are_doubted(tmp_path: Path) -> None:
    hits, trace = tmp_path / "hits", tmp_path / "trace"
    run("-e", "libc:write", "-o", hits, "echo", "hello")
    trace.write_text("            sort-77      [001] d..2.     0.000001: sched_switch: x\n")
    merging = run("--merge", trace, hits)
    assert merging.status == 0
    assert merging.stderr.startswith("ptrace-uprobes: warning: the times of the kernel trace (0.0")
    assert "was its trace_clock mono?" in merging.stderr


def test_a_clock_that_is_not_mono_and_tracing_that_is_off_are_warned_of(
    instance: Path, tmp_path: Path
) -> None:
    (instance / "trace_clock").write_text("local")
    (instance / "tracing_on").write_text("0")
    probed = run(
        *("-e", "libc:write", "-o", tmp_path / "hits", "--trace-marker"),
        *("--trace-instance", f"{instance}", "echo", "hello"),
    )
    assert probed.status == 0
    assert "the trace's clock is 'local'" in probed.stderr
    assert "tracing is off" in probed.stderr
    assert "1 of the hits are not in the trace: tracing was off" in probed.stderr
    assert (instance / "trace_clock").read_text().startswith("[local]")


def test_a_deep_stack_in_the_trace_is_whole(instance: Path, tmp_path: Path) -> None:
    hits = tmp_path / "hits"
    script = "import os; f = lambda n: f(n-1) if n else os.write(1, b'x'); f(100)"
    probed = run(
        *("-e", "libc:write", "--request", "regs,data,stack", "--length", "3000", "-o", hits),
        *("--trace-marker", "--trace-instance", instance.name),
        *("--", sys.executable, "-S", "-c", script),
    )
    assert probed.stderr == ""
    frames = [line for line in hits.read_text().splitlines() if line.startswith(" => ")]
    trace = _saved(instance)
    assert frames
    assert [line for line in trace.splitlines() if line.startswith(" => ")] == frames


def test_a_marker_that_may_not_be_written_is_named_with_the_alternative(tmp_path: Path) -> None:
    failed = run("-e", "libc:write", "--trace-marker", "--trace-instance", f"{tmp_path}/x", "true")
    assert failed.status == 1
    assert f"cannot write {tmp_path}/x/trace_marker: " in failed.error
    assert "--merge TRACE" in failed.error


def test_without_tracefs_the_error_names_merge() -> None:
    # GIVEN a mount namespace without a tracefs
    script = (
        "while read -r _ where kind _; do [ $kind = tracefs ] && umount -l $where; done"
        ' < /proc/mounts; exec "$@"'
    )
    command = [*COMMAND, "-e", "libc:write", "--trace-marker", "echo", "hello"]
    finished = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in finished.stderr:
        pytest.skip(f"no mount namespace: {finished.stderr.strip()}")
    assert finished.returncode == 1
    assert "tracefs is not mounted" in finished.stderr
    assert "--merge TRACE" in finished.stderr
    assert finished.stdout == ""
