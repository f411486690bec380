"""trace_marker is found, written a line a hit, and what it does not take is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptrace_uprobes.errors import OutputError
from ptrace_uprobes.output.trace_marker import TraceMarker, find_tracefs


@pytest.fixture
def tracefs(tmp_path: Path) -> Path:
    (tmp_path / "trace_marker").write_text("")
    (tmp_path / "trace_clock").write_text("local global counter [mono] boot\n")
    (tmp_path / "tracing_on").write_text("1\n")
    return tmp_path


def test_a_hit_is_written_at_once_without_the_padding_of_its_line(tracefs: Path) -> None:
    with TraceMarker.open(f"{tracefs}/") as marker:
        marker.write("            sort-77      [001] 1.000000: f: (0x1)\n => f [x]\n")
        assert (tracefs / "trace_marker").read_text() == (
            "sort-77      [001] 1.000000: f: (0x1)\n => f [x]\n"
        )
        assert marker.doubts() == []
        assert marker.losses() == []


def test_what_is_longer_than_an_entry_goes_in_pieces_that_end_with_a_line(
    tracefs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a look at what is written at a time
    entries: list[bytes] = []

    def take(descriptor: int, data: bytes) -> int:
        entries.append(data)
        return len(data)

    text = "sort: f\n" + "".join(f" => frame_{number} [x]\n" for number in range(1000))
    with TraceMarker.open(f"{tracefs}/") as marker:
        # WHEN a hit with a deep stack is written
        monkeypatch.setattr(os, "write", take)
        marker.write(text)
        monkeypatch.undo()
    # THEN no frame is torn
    assert b"".join(entries) == text.encode()
    assert all(entry.endswith(b"\n") for entry in entries)
    assert all(len(entry) <= 4000 for entry in entries)


def test_another_clock_and_tracing_that_is_off_are_doubted(tracefs: Path) -> None:
    (tracefs / "trace_clock").write_text("[local] global mono\n")
    (tracefs / "tracing_on").write_text("0\n")
    with TraceMarker.open(f"{tracefs}/") as marker:
        clock, off = marker.doubts()
    assert "the trace's clock is 'local'" in clock
    assert "echo mono > " in clock
    assert "tracing is off" in off


def test_settings_that_cannot_be_read_are_not_doubted(tracefs: Path) -> None:
    (tracefs / "trace_clock").unlink()
    (tracefs / "tracing_on").unlink()
    with TraceMarker.open(f"{tracefs}/") as marker:
        assert marker.doubts() == []


def test_hits_that_the_kernel_does_not_take_are_counted(tracefs: Path) -> None:
    (tracefs / "trace_marker").unlink()
    (tracefs / "trace_marker").symlink_to("/dev/full")
    with TraceMarker.open(f"{tracefs}/") as marker:
        marker.write("one\n")
        marker.write("two\n")
        assert marker.losses() == ["2 of the hits are not in the trace: No space left on device"]


@pytest.mark.parametrize("name", ["./nowhere", "nul\0/", "/dev/null"])
def test_a_marker_that_cannot_be_opened_names_the_alternative(name: str) -> None:
    with pytest.raises(OutputError, match=r"trace_marker: .*; --merge TRACE"):
        TraceMarker.open(name)


def test_tracefs_is_found_wherever_it_is_mounted(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "proc /proc proc rw 0 0\n"
        "none /sys/kernel/tracing tracefs rw 0 0\n"
        "none /mnt/my\\040trace tracefs rw 0 0\n"
    )
    everywhere = find_tracefs(str(mounts), lambda place: True)
    assert everywhere == "/sys/kernel/tracing"
    assert find_tracefs(str(mounts), lambda place: "my" in place) == "/mnt/my trace"
    assert find_tracefs(str(mounts), lambda place: False) == "/sys/kernel/tracing"


def test_no_tracefs_is_an_error_that_names_the_alternative(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("proc /proc proc rw 0 0\ntracefs /x nottracefs rw 0 0\n")
    with pytest.raises(OutputError, match=r"tracefs is not mounted .*--merge TRACE"):
        find_tracefs(str(mounts))
