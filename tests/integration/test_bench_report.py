"""What the report of a run says and shows, of results that are made up here."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.report import plots
from bench.report.plots import cost_bars
from bench.report.prose import standing_still, verdict
from bench.report.results import Entry, Results
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def _entry(group: str, contestant: str, seconds: float, **facts: object) -> Entry:
    ratio = seconds / 10e-6
    known = {"contestant": contestant, "ratios": [ratio] * 3, "ratio": ratio}
    known |= {"ratio_low": ratio, "ratio_high": ratio}
    return Entry(group, contestant, seconds, seconds, seconds, 3, {**known, **facts})


def _results(*entries: Entry, absent: tuple[dict[str, str], ...] = ()) -> Results:
    return Results(Path("results.json"), "2026-11-27", "", False, False, {}, entries, absent, ())


def test_a_long_title_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN the longest title and label that a run has
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    title = (
        "a call and its return, the function begins with nopl 0x0(%rax,%rax,1)"
        " (uretprobe-nop5), one CPU"
    )

    # WHEN it is drawn
    label = "ptrace_uprobes, a return probe, empty handler"
    cost_bars([_entry("g", label, 26e-6)], title, tmp_path / "picture")

    # THEN all of it is within the picture
    (figure,) = drawn
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib's has no annotations
    shown = figure.axes[0].title
    assert shown.get_text().replace("\n", " ") == title
    extent = shown.get_window_extent(canvas.get_renderer())  # type: ignore[no-untyped-call]  # as above
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width


def test_what_a_pause_leaves_out_and_the_longest_one_are_told() -> None:
    facts = {"sleep_seconds": 400e-6, "series": "attach"}
    points = [_entry("g", "1", 1e-3, longest=longest, **facts) for longest in (2e-3, 9e-3)]
    text = standing_still(points)
    assert "up to 400 µs longer than told" in text
    assert "attach 9.00 ms" in text


def test_a_curve_of_something_else_has_no_words_of_pauses() -> None:
    assert standing_still([_entry("g", "1", 1e-3, series="s")]) == ""


def test_every_tool_that_stops_the_program_is_named_beside_ours() -> None:
    one, two = "peers: the hits counted, one CPU", "peers: the hits counted, two CPUs"
    python_ptrace = "python-ptrace, its Breakpoint"
    text = verdict(
        _results(
            _entry(one, "ptrace_uprobes", 10e-6),
            _entry(one, "libdebug, callback", 60e-6),
            _entry(one, python_ptrace, 50e-6),
            _entry(two, "ptrace_uprobes", 50e-6),
            _entry(two, "libdebug, callback", 100e-6),
        )
    )
    assert f"{python_ptrace} 50.0 µs (5.00" in text
    assert "On two CPUs libdebug takes 2.00" in text


def test_a_kernel_probe_that_ends_the_program_is_told() -> None:
    reason = "the target did not finish: SIGSEGV ended it; it says nothing"
    gone = {
        "group": "one hit at: syscall",
        "contestant": "kernel uprobe, tracefs",
        "reason": reason,
    }
    text = verdict(_results(absent=(gone,)))
    assert "on `syscall` the program was ended by SIGSEGV" in text
