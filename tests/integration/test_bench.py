"""The measurements measure what they say, survive what fails, and leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from bench.contest import Plan, run_contest
from bench.contestants import contestant as contestants
from bench.contestants.contestant import Command, Contestant, Counted, NotMeasured
from bench.contestants.kernel_uprobe import GROUP_PREFIX
from bench.contestants.plain import NoProbe
from bench.job import SITES, Job, Task, one_cpu
from bench.report.compare import comparison
from bench.report.document import write_report
from bench.report.results import BadResults, read_results
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.oracle import require_tracefs
from tests.support.procfs import descendants

_ROOT = Path(__file__).resolve().parents[2]
_LIMIT = 120


def _quiet(text: str) -> None:
    pass


def _measure(results: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", f"--benchmark-json={results}"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *words],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )


def _report(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.report", *map(str, words)]
    return subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, timeout=_LIMIT, check=False
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one instruction."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    run = _measure(path, "--quick", "bench/test_cost_per_hit.py", "-k", "nop- and (boost or stop)")
    assert run.returncode == 0, run.stdout
    return path


def test_results_have_a_ratio_with_its_interval_the_placement_and_the_machine(
    results: Path,
) -> None:
    found = json.loads(results.read_text())
    assert {"processor", "kernel", "virtual", "mitigations", "governor"} <= set(
        found["machine_info"]["measured"]
    )
    every = [one["extra_info"] for one in found["benchmarks"]]
    facts = next(facts for facts in every if "boost" in facts["contestant"])
    assert facts["ratio_low"] <= facts["ratio"] <= facts["ratio_high"]
    assert facts["cpus"][0] == facts["cpus"][1]
    assert len(facts["ratios"]) == 3


def test_the_report_shows_what_was_measured_with_pictures(results: Path, tmp_path: Path) -> None:
    written = _report(results, "--output", tmp_path / "report")
    assert written.returncode == 0, written.stderr
    text = (tmp_path / "report" / "benchmarks.md").read_text()
    assert re.search(
        r"^\| `nop` \(uprobe-nop\) \|( [\d.]+ [nµm]?s\*? \|| - \|)+", text, re.MULTILINE
    )
    assert "**This is the quick run**" in text
    for picture in re.findall(r"\]\((\S+\.svg)\)", text):
        assert (tmp_path / "report" / picture).stat().st_size > 1000
        assert (tmp_path / "report" / picture).with_suffix(".png").exists()


def test_a_run_agrees_with_itself(results: Path) -> None:
    compared = _report(results, "--compare", results)
    number = re.match(r"(\d+) ratios in both runs; the intervals of (\d+) of them", compared.stdout)
    assert number is not None
    assert int(number[1]) == int(number[2]) > 0


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"benchmarks": [{}]}'])
def test_a_file_that_holds_no_results_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    refused = _report(path, "--output", tmp_path / "report")
    assert refused.returncode == 1
    assert re.fullmatch(r"bench\.report: error: .*holds no results.*\n", refused.stderr)


class _Tool(Contestant):
    """A tool that runs the target unprobed and says what it is told to."""

    tasks = (Task.COUNT,)

    def __init__(self, name: str, script: str, claims: Callable[[Job], int]) -> None:
        self.name = name
        self._script = script
        self._claims = claims

    def version(self) -> str:
        return ""

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        return Command(["sh", "-c", self._script, "sh", *target])

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        return Counted(self._claims(job))


def test_a_contestant_that_hangs_miscounts_or_fails_is_not_measured_and_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contestants, "BOUND_SECONDS", 1.0)
    right = lambda job: job.expected_hits  # noqa: E731
    marker = f"bench-hangs-{os.getpid()}"
    tools = [
        _Tool("hangs", f': {marker}; "$@" & sleep 100', right),
        _Tool("misses one", '"$@"', lambda job: job.expected_hits - 1),
        _Tool("fails", "echo no such thing >&2; exit 3", right),
        NoProbe(),
    ]
    found = run_contest(tools, SITES["nop"], Task.COUNT, one_cpu(), Plan(2, 0.001), _quiet)
    assert found["hangs"].not_measured == "hung after 1 s"
    assert "counted 499 hits of 500" in str(found["misses one"].not_measured)
    assert str(found["fails"].not_measured).endswith("it says: no such thing")
    assert found["no probe"].not_measured is None
    assert len(found["no probe"].ratios) == 2
    alive = subprocess.run(["pgrep", "-f", marker], capture_output=True, text=True, check=False)
    assert alive.stdout == ""


def test_a_count_that_is_wrong_is_no_figure() -> None:
    tool = _Tool("counts twice", '"$@"', lambda job: 2 * job.expected_hits)
    job = Job(SITES["nop"], Task.COUNT, 100, one_cpu())
    with pytest.raises(NotMeasured, match="counted 600 hits of 300"):
        tool.run(job)


def test_where_nothing_could_be_measured_the_report_says_why(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    # The kernel refuses that instruction, or us.
    run = _measure(
        results, "bench/test_cost_per_hit.py", "-k", "test_instruction and lock and tracefs"
    )
    assert run.returncode == 0, run.stdout
    assert json.loads(results.read_text())["benchmarks"] == []
    written = _report(results, "--output", tmp_path / "report")
    assert written.returncode == 0, written.stderr
    text = (tmp_path / "report" / "benchmarks.md").read_text()
    assert re.search(r"^\| kernel uprobe, tracefs \| .*lock incq", text, re.MULTILINE)


def test_an_interrupt_leaves_no_probe_in_the_kernel_and_no_process(tmp_path: Path) -> None:
    tracefs = require_tracefs()
    before = (tracefs / "uprobe_events").read_text()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "-k", "test_instruction and tracefs and endbr"],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + _LIMIT
    while GROUP_PREFIX not in (tracefs / "uprobe_events").read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    below = descendants(process.pid)
    assert below
    os.kill(process.pid, signal.SIGINT)
    process.wait(_LIMIT)
    assert (tracefs / "uprobe_events").read_text() == before
    assert not list((tracefs / "instances").glob(f"{GROUP_PREFIX}*"))
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]


_PLACES = st.lists(st.integers(0, 10_000), min_size=1, max_size=6)
_DAMAGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**400),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["$x_{$", "\ud800", "", " ", "scaling", "layer", "peers: ", "growth"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def _damage(data: Any, steps: Sequence[int], put: object) -> None:
    """At the end of a walk down from `data`: take the element out (`put` is ...), or replace it."""
    for depth, step in enumerate(steps):
        keys: Sequence[Any] = sorted(data) if isinstance(data, dict) else range(len(data))
        if not keys:
            return
        key = keys[step % len(keys)]
        if depth == len(steps) - 1 or not isinstance(data[key], (dict, list)):
            if put is ...:
                del data[key]
            else:
                data[key] = put
            return
        data = data[key]


def _with_every_kind(results: Path) -> Any:
    """What one quick run of one instruction lacks."""
    data = json.loads(results.read_text())
    data["machine_info"] = {"measured": data["machine_info"]["measured"]}
    whole = data["benchmarks"][0]
    more: tuple[dict[str, Any], ...] = (
        {"kind": "layer", "layer": 1, "adds": "all", "added": 1e-6},
        {"kind": "primitive", "primitive": "trap"},
        {"kind": "not hit", "hits": 3},
        {"kind": "peer", "placement": "one CPU", "contestant": "ptrace_uprobes", "ratios": [1.0]},
    )
    for x in (1, 100):
        scaling = {"curve": "c", "series": "s", "x": x, "x_name": "sites", "y_name": "time"}
        more += ({"kind": "scaling", "cpus": [0, 1], "placement": "two CPUs", **scaling},)
    for facts in more:
        group = "peers: the hits counted, one CPU" if facts["kind"] == "peer" else facts["kind"]
        data["benchmarks"].append({**whole, "group": group, "extra_info": facts})
    share = {"group": "plan shares", "kind": "plan shares", "unit": "share", "value": 0.001}
    data["figures"] = [
        {"group": "memory", "name": "resident", "value": 5000, "unit": "bytes", "goal": ""},
        {**share, "name": "libc: one stop"},
        {**share, "name": "libc: step", "mechanism": "step"},
        {**share, "name": "a thread", "low": 0.1, "high": 0.2, "promised": 0.9},
    ]
    data["not_measured"] = [{"name": "t", "group": "one hit at: nop", "reason": "why"}]
    return data


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_PLACES, _DAMAGE | st.just(...))
def test_damaged_results_are_reported_or_refused_in_one_line(
    results: Path, tmp_path: Path, places: list[int], put: object
) -> None:
    data = _with_every_kind(results)
    _damage(data, places, put)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data))
    refused = ""
    try:
        found = read_results(path)
    except BadResults as error:
        refused = str(error)
    else:
        write_report(found, tmp_path / "benchmarks.md", tmp_path / "benchmarks")
        comparison(found, found)
    assert "\n" not in refused


def test_a_report_of_nothing_but_the_program_unprobed_has_no_picture_of_it(
    results: Path, tmp_path: Path
) -> None:
    # GIVEN that every contestant hung
    data = json.loads(results.read_text())
    one = next(one for one in data["benchmarks"] if one["group"].startswith("one hit at: "))
    one["extra_info"] |= {"contestant": "no probe", "site": "nop5"}
    data["benchmarks"] = [one]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))

    # WHEN it is reported
    write_report(read_results(path), tmp_path / "benchmarks.md", tmp_path / "benchmarks")

    # THEN it is
    assert "One hit, by instruction" in (tmp_path / "benchmarks.md").read_text()
    assert not list((tmp_path / "benchmarks").iterdir())


@pytest.mark.parametrize("median", ["x", float("nan"), -1.0, 0, 10**400, True, None])
def test_a_duration_that_is_none_is_refused(results: Path, tmp_path: Path, median: object) -> None:
    data = json.loads(results.read_text())
    data["benchmarks"][0]["stats"]["median"] = median
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BadResults, match="median is"):
        read_results(path)


def test_results_nested_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(BadResults, match="holds no results"):
        read_results(path)


def test_an_interrupted_run_keeps_what_it_has_and_says_that_it_is_not_all(tmp_path: Path) -> None:
    # GIVEN a run that Ctrl-C ends when its first figure is there
    path = tmp_path / "results.json"
    code = (
        "import os, signal, pytest\n"
        "class Interrupt:\n"
        "    def pytest_runtest_logreport(self, report):\n"
        "        if report.when == 'teardown': os.kill(os.getpid(), signal.SIGINT)\n"
        "options = ['-q', '-p', 'no:cacheprovider', '--quick']\n"
        f"measure = ['bench/test_cost_per_hit.py', '-k', 'nop- and (boost or stop or probe)']\n"
        f"pytest.main([*options, '--benchmark-json={path}', *measure], [Interrupt()])\n"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=_ROOT, capture_output=True, check=True, timeout=_LIMIT)

    # WHEN the report is made
    found = read_results(path)
    write_report(found, tmp_path / "benchmarks.md", tmp_path / "benchmarks")

    # THEN it has the figure, and says that there was to be more
    assert len(found.entries) == 1
    assert "This run was interrupted" in (tmp_path / "benchmarks.md").read_text()


def test_a_comparison_is_not_silent_when_standard_output_is_closed(results: Path) -> None:
    command = f"exec {sys.executable} -m bench.report {results} --compare {results} >&-"
    ended = subprocess.run(
        ["sh", "-c", command], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (
        1,
        "bench.report: error: standard output: closed\n",
    )


def test_a_comparison_that_nobody_takes_ends_with_one_line(results: Path) -> None:
    command = [sys.executable, "-m", "bench.report", str(results), "--compare", str(results)]
    reader, writer = os.pipe()
    os.close(reader)
    for output in (os.open("/dev/full", os.O_WRONLY), writer):
        ended = subprocess.run(
            command, cwd=_ROOT, stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(output)
        assert ended.returncode == 1
        assert re.fullmatch(r"bench\.report: error: standard output: .+\n", ended.stderr)
