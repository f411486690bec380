"""Options, progress and the record of what could not be measured."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import pytest

from bench import machine
from bench.contest import Measurement, Plan
from bench.contestants.contestant import Contestant
from bench.replay import record

Contestants = tuple[Contestant, ...]

_interrupted = False
_absent: list[dict[str, str]] = []
_figures: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--quick", action="store_true", help="few rounds, short ones, fewer points")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full_only: left out by --quick")
    # As Ctrl-C: what was planted in the kernel is taken out on the way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        leave_out = [item for item in items if item.get_closest_marker("full_only")]
        config.hook.pytest_deselected(items=leave_out)
        items[:] = [item for item in items if item not in leave_out]


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info["measured"] = machine.facts()


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    """What is missing is part of the result."""
    output_json["not_measured"] = [*_absent, *_without_a_second_cpu()]
    output_json["figures"] = _figures
    output_json["interrupted"] = _interrupted
    output_json["quick"] = bool(config.getoption("--quick"))


def _without_a_second_cpu() -> list[dict[str, str]]:
    """Its measurements are not even collected."""
    if len(machine.cpus()) > 1:
        return []
    what = "tracer and tracee on two CPUs"
    return [{"name": what, "group": "", "reason": "we may run on one CPU only"}]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where nothing could be measured pytest-benchmark writes nothing: what is missing, and why,
    is a result all the same."""
    config = session.config
    benchmarks = config._benchmarksession  # type: ignore[attr-defined]  # it has no other name
    if benchmarks.benchmarks or not benchmarks.json or not (_absent or _figures):
        return
    facts = {
        "config": config,
        "benchmarks": [],
        "include_data": True,
        "machine_info": benchmarks.get_machine_info(),
        "commit_info": config.hook.pytest_benchmark_generate_commit_info(config=config),
    }
    results = config.hook.pytest_benchmark_generate_json(**facts)
    pytest_benchmark_update_json(config, [], results)
    benchmarks.save_json(results)


def pytest_keyboard_interrupt() -> None:
    """What was measured is kept, and the report says that it is not all."""
    global _interrupted
    _interrupted = True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A measurement that fails is missing in the report, with what failed; the others go on."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's, not typed here
    if report.failed and call.excinfo is not None:
        _absent.append(
            {
                "name": item.name,
                "fullname": item.nodeid,
                "group": "",
                "reason": f"failed: {call.excinfo.exconly()}".splitlines()[0][:300],
            }
        )


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--quick"))


@pytest.fixture(scope="session")
def plan(quick: bool) -> Plan:
    """How much each contest measures."""
    return Plan(rounds=3, seconds=0.03) if quick else Plan(rounds=7, seconds=0.08)


@pytest.fixture(scope="session")
def progress(pytestconfig: pytest.Config) -> Iterator[Callable[[str], None]]:
    """One line of the terminal that changes; on anything else nothing, pytest's dots do."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    stream = None if reporter is None else reporter._tw
    shown = stream is not None and os.isatty(sys.__stdout__.fileno() if sys.__stdout__ else -1)
    width = shutil.get_terminal_size().columns - 1

    def show(text: str) -> None:
        if shown and stream is not None:
            stream.write(f"\r{text[:width]:<{width}}\r", flush=True)

    yield show
    show("")


@pytest.fixture
def chosen(request: pytest.FixtureRequest) -> Callable[[Sequence[Contestant]], Contestants]:
    """Of a test's contestants those that -k has left: a contest runs no others."""

    def choose(contestants: Sequence[Contestant]) -> Contestants:
        node = request.node
        mine = {k: v for k, v in node.callspec.params.items() if k != "contestant"}
        names = {
            item.callspec.params["contestant"]
            for item in request.session.items
            if isinstance(item, pytest.Function)
            and item.originalname == node.originalname
            and item.path == node.path
            and mine.items() <= item.callspec.params.items()
        }
        return tuple(each for each in contestants if each.name in names)

    return choose


@pytest.fixture
def figure() -> Callable[..., None]:
    """Records what is no duration: bytes, pages, counts, shares."""

    def note(group: str, name: str, value: float, unit: str, **facts: Any) -> None:
        _figures.append({"group": group, "name": name, "value": value, "unit": unit, **facts})

    return note


@pytest.fixture
def not_measured(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """Says why there is no figure: in the terminal and in the results."""

    def say(reason: str) -> NoReturn:
        node = request.node
        marker = node.get_closest_marker("benchmark")
        group = marker.kwargs.get("group") if marker is not None else None
        if "benchmark" in node.fixturenames:
            group = request.getfixturevalue("benchmark").group or group
        _absent.append(
            {
                "name": node.name,
                "fullname": node.nodeid,
                "group": group or "",
                "reason": reason,
            }
        )
        pytest.skip(f"not measured: {reason}")

    return say


@pytest.fixture
def book(benchmark: Any, not_measured: Callable[[str], NoReturn]) -> Callable[..., None]:
    """Records a contestant's measurement, or why there is none."""

    def do(result: Measurement, group: str, **facts: Any) -> None:
        benchmark.group = group
        if result.not_measured is not None:
            _absent.append(
                {
                    "group": group,
                    "contestant": result.contestant,
                    "site": result.site,
                    "task": result.task,
                    "placement": result.placement.name,
                    "reason": result.not_measured,
                }
            )
            pytest.skip(f"not measured: {result.not_measured}")
        record(benchmark, result, **facts)

    return do
