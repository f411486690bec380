"""Probes of libraries that are not loaded yet are planted before their first instruction runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report, start_target


@pytest.fixture
def plugin() -> Path:
    return build_target("plugin.c", "-shared", "-fPIC", name="libplugin.so")


def _loader() -> Path:
    return build_target("dlopen_loop.c", "-ldl")


@pytest.mark.parametrize("spec", ["libplugin:plugin_work", "libplugin.so:plugin_work", "PATH"])
def test_a_library_that_is_loaded_and_unloaded_again_and_again_is_probed_each_time(
    spec: str, plugin: Path
) -> None:
    # GIVEN a probe of a library that will be loaded six times
    spec = f"{plugin}:plugin_work" if spec == "PATH" else spec
    plain = run_plain([_loader(), str(plugin), "6"])

    # WHEN the program runs
    probed = run_probed([_loader(), str(plugin), "6"], [spec])

    # THEN each call was counted, and nothing else differs
    assert probed.outcome == plain
    assert probed.hits == {spec: parse_report(plain.stdout.decode())["plugin_work"]}


def test_what_a_librarys_constructor_calls_is_counted_too(plugin: Path) -> None:
    probed = run_probed([_loader(), str(plugin), "4"], ["libplugin:plugin_start"])
    assert probed.outcome.status == 0
    assert probed.hits == {"libplugin:plugin_start": 4}


def test_a_probe_added_to_a_running_process_waits_for_the_library(plugin: Path) -> None:
    # GIVEN a process that has not loaded the library yet
    with start_target(_loader(), str(plugin), "5") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("libplugin:plugin_work")
        assert probe.pending
        engine.start()

        # WHEN it loads it
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN no call was lost
    assert ended.status == 0
    assert probe.hits == ended.report["plugin_work"]
    assert not probe.pending


def test_a_probe_of_a_library_that_never_comes_stays_pending_and_harms_nothing(
    plugin: Path,
) -> None:
    plain = run_plain([_loader(), str(plugin), "2"])
    probed = run_probed([_loader(), str(plugin), "2"], ["libnever:nothing"])
    assert probed.outcome == plain
    assert probed.hits == {"libnever:nothing": 0}


def test_functions_that_run_before_main_are_probed_at_launch() -> None:
    # GIVEN a function of libc that the program's start calls
    program = build_target("hot_loop.c")

    # WHEN it is launched with probes in place
    probed = run_probed([program, "3"], ["libc:__libc_start_main", "_start", "main", "hot"])

    # THEN each was hit as often as it runs
    assert probed.outcome.status == 0
    assert probed.hits == {"libc:__libc_start_main": 1, "_start": 1, "main": 1, "hot": 3}


def test_a_glob_over_a_pending_library_counts_the_sum_and_each_place(plugin: Path) -> None:
    with pu.launch([str(_loader()), str(plugin), "3"]) as engine:
        probe = engine.probe("libplugin:plugin_*")
        result = engine.run(timeout=30)
    assert result.exit_status == 0
    assert probe.hits == 12
    assert {site.label: site.hits for site in probe.sites} == {"plugin_work": 9, "plugin_start": 3}
