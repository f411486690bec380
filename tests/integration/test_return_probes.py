"""Return probes: every return is a hit with the value, every other end is counted, and the
program is none the wiser. The program's own accounts are the truth."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes.engine import counting, loop
from tests.support.build import build_target
from tests.support.elf_tools import functions
from tests.support.other_compilers import build_go
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report

_FLAGS = ("-O2", "-lstdc++")
_MASK = (1 << 64) - 1
_ACCOUNT = re.compile(r"(\w+) entered (\d+) returned (\d+) sum (-?\d+)")


@pytest.fixture(scope="module")
def program() -> Path:
    return build_target("returned.cc", *_FLAGS)


@pytest.fixture(scope="module")
def truth(program: Path) -> dict[str, tuple[int, int, int]]:
    outcome = run_plain([program])
    assert outcome.status == 0
    accounts = _ACCOUNT.findall(outcome.stdout.decode())
    assert len(accounts) == 14
    return {name: (int(entered), int(left), int(total)) for name, entered, left, total in accounts}


class _Watched:
    """The returns of one function, as they were reported."""

    def __init__(self, engine: pu.Engine, name: str) -> None:
        self.values: list[int] = []
        self.entry = engine.probe(name)
        self.exit = engine.probe(f"{name}%return", self._note)

    def _note(self, hit: pu.Hit) -> None:
        value = hit.return_value
        self.values.append(value - (1 << 64) if value >> 63 else value)


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_every_way_to_leave_a_function_is_told_apart(
    program: Path,
    truth: dict[str, tuple[int, int, int]],
    capfd: pytest.CaptureFixture[str],
    mechanism: str,
) -> None:
    with pu.launch([str(program)], mechanism=mechanism) as engine:
        watched = {name: _Watched(engine, name) for name in truth}
        result = engine.run(timeout=120)

    assert (result.ended, result.exit_status) == ("exited", 0)
    assert capfd.readouterr().out == run_plain([program]).stdout.decode()
    for name, (entered, left, total) in truth.items():
        seen = watched[name]
        assert seen.entry.hits == entered, name
        assert (seen.exit.hits, sum(seen.values)) == (left, total), name
        assert (seen.exit.unreturned, seen.exit.missed) == (entered - left, 0), name


def test_a_return_is_reported_where_it_goes_with_the_function_it_left(program: Path) -> None:
    places: set[tuple[int, int]] = set()
    with pu.launch([str(program)]) as engine:
        entry: list[int] = []
        engine.probe("catcher", lambda hit: entry.append(hit.address))
        returns: list[tuple[bool, int, int, int]] = []

        @engine.probe("catcher%return")
        def at_return(hit: pu.Hit) -> None:
            assert not hit.registers.dirty
            stood = int.from_bytes(hit.read(hit.registers.rsp - 8, 8), "little")
            returns.append((hit.is_return, hit.address, hit.registers.rip, stood))
            places.add((hit.function, hit.address))

        engine.run(timeout=60)
    assert len(returns) == 30
    for is_return, address, rip, on_stack in returns:
        assert is_return
        assert address == rip == on_stack
    assert {function for function, _ in places} == set(entry)


def test_what_a_handler_changes_at_a_return_is_what_the_caller_gets(
    program: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def lie(hit: pu.Hit) -> None:
        hit.registers.rax = 1000

    with pu.launch([str(program)]) as engine:
        probe = engine.probe("thrower%return", lie)
        engine.run(timeout=60)
    # middle() adds what it gets, and one, to its account.
    accounts = {name: int(total) for name, _, _, total in _ACCOUNT.findall(capfd.readouterr().out)}
    assert accounts["middle"] == probe.hits * 1001


def test_a_call_costs_two_stops_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    stops = 0
    look: Callable[..., Any] = os.waitid
    monkeypatch.setattr(loop, "serve", counting.serve_in_python)  # C's cannot be counted

    def watching(kind: int, who: int, options: int) -> Any:
        nonlocal stops
        seen = look(kind, who, options)
        stops += seen is not None
        return seen

    def stops_of(calls: int) -> int:
        nonlocal stops
        with pu.launch([str(build_target("returns_recursion.c")), "1", str(calls)]) as engine:
            probe = engine.probe("probed%return")
            stops = 0
            engine.run(timeout=60)
        assert probe.hits == calls
        return stops

    monkeypatch.setattr(os, "waitid", watching)
    assert stops_of(5000) - stops_of(1000) == 2 * 4000


def test_a_return_probe_can_be_disabled_and_enabled_between_entry_and_return(
    program: Path,
) -> None:
    with pu.launch([str(program)]) as engine:
        probe = engine.probe("recurse%return")
        depth = 0

        @engine.probe("recurse")
        def at_entry(hit: pu.Hit) -> None:
            nonlocal depth
            depth += 1
            if depth == 200:
                probe.enabled = False
            if depth == 300:
                probe.enabled = True

        result = engine.run(timeout=60)
    assert result.exit_status == 0
    assert probe.hits + probe.unreturned <= depth - 100
    assert probe.hits > 9000


def test_a_detach_in_the_middle_of_calls_leaves_the_program_to_finish_them(
    program: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pu.launch([str(program)]) as engine:
        probe = engine.probe("recurse%return")
        entered = 0

        @engine.probe("recurse")
        def at_entry(hit: pu.Hit) -> None:
            nonlocal entered
            entered += 1
            if entered == 5000:
                engine.interrupt()

        result = engine.run(timeout=60)
        assert result.ended == "interrupted"
        assert engine.wait_command() == 0
    assert capfd.readouterr().out == run_plain([program]).stdout.decode()
    assert entered == probe.hits + probe.unreturned
    assert "still running when the probes were taken out" in probe.unreturned_causes


def test_the_entry_point_has_nothing_to_return_to_and_that_is_said(program: Path) -> None:
    with pu.launch([str(program)]) as engine:
        probe = engine.probe("_start%return")
        result = engine.run(timeout=60)
    assert result.exit_status == 0
    assert (probe.hits, probe.missed) == (0, 1)
    assert "not the address of code" in next(iter(probe.missed_causes))


def test_children_that_are_followed_return_as_well(program: Path) -> None:
    with pu.launch([str(program)], follow_forks=True) as engine:
        pids: list[tuple[int, int]] = []
        probe = engine.probe(
            "forks%return", lambda hit: pids.append((hit.pid, hit.return_value & 0xFF))
        )
        engine.run(timeout=60)
    assert probe.hits == 2
    assert len({pid for pid, _ in pids}) == 2
    assert {value for _, value in pids} == {4, 0xFF}


CASES = (
    ("returns_recursion.c", ("10000", "2")),
    ("returns_tail_calls.c", ("20", "50")),
    ("returns_jumps.c", ("5",)),
    ("returns_longjmp.c", ("depths", "20")),
    ("returns_longjmp.c", ("frames", "20")),
    ("returns_longjmp.c", ("handler", "20")),
    ("returns_longjmp.c", ("stack", "20")),
    ("returns_signals.c", ("same", "20")),
    ("returns_signals.c", ("stack", "20")),
    ("returns_signals.c", ("above", "20")),
    ("returns_signals.c", ("nested", "20")),
    ("returns_signals.c", ("timer", "20")),
    ("returns_exceptions.cc", ("through", "20")),
    ("returns_exceptions.cc", ("inside", "20")),
    ("returns_exceptions.cc", ("rethrow", "20")),
    ("returns_exceptions.cc", ("thread", "5")),
    ("returns_exceptions.cc", ("never", "20")),
    ("returns_coroutines.c", ("8", "3")),
    *(
        ("returns_contexts.c", (mode, "10"))
        for mode in ("setcontext", "builtin", "altstack", "abandoned", "migrated")
    ),
    ("returns_threads.c", ("exit", "8")),
    ("returns_threads.c", ("cancel", "8")),
    ("returns_threads.c", ("async", "4")),
    ("returns_threads.c", ("process", "4")),
    ("returns_threads.c", ("none", "8")),
    ("returns_forks.c", ("fork", "5")),
    ("returns_forks.c", ("vfork", "5")),
)


@pytest.mark.parametrize(
    ("source", "arguments"), CASES, ids=[f"{source}-{'-'.join(words)}" for source, words in CASES]
)
def test_returns_agree_with_the_program_that_counts_them_itself(
    source: str, arguments: tuple[str, ...]
) -> None:
    flags = {
        "returns_tail_calls.c": ("-O2",),
        "returns_jumps.c": ("-O2",),
        "returns_exceptions.cc": ("-lstdc++",),
    }
    command: list[str | Path] = [build_target(source, *flags.get(source, ())), *arguments]
    plain = run_plain(command)
    before = parse_report(plain.stdout.decode())
    names = [name.removesuffix("_calls") for name in before if name.endswith("_calls")]
    assert names
    values: dict[str, int] = dict.fromkeys(names, 0)

    def add(hit: pu.Hit) -> None:
        values[hit.probe.spec.removesuffix("%return")] += hit.return_value

    run = run_probed(command, [f"{name}%return" for name in names], handler=add, follow_forks=True)
    report = parse_report(run.outcome.stdout.decode())
    assert (run.outcome.status, run.ended) == (plain.status, "exited")
    for name in names:
        assert run.hits[f"{name}%return"] == report[f"{name}_returns"], name
        assert values[name] & _MASK == report[f"{name}_sum"] & _MASK, name
        assert run.missed[f"{name}%return"] == 0


@pytest.mark.parametrize("mode", ["inside", "rethrow"])
def test_returns_agree_in_a_program_without_symbols_or_shared_libraries(
    mode: str, tmp_path: Path
) -> None:
    # GIVEN a program whose unwinder and longjmp have no names to be watched by
    whole = build_target("returns_exceptions.cc", "-static", "-lstdc++", "-no-pie")
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", str(stripped), str(whole)], check=True)
    spec = f"{functions(whole)['probed'].address:#x}%return"

    run = run_probed([stripped, mode, "20"], [spec])

    report = parse_report(run.outcome.stdout.decode())
    assert run.outcome.status == 0
    assert run.hits[spec] == report["probed_returns"] < report["probed_calls"]
    assert run.missed[spec] == 0


def test_what_returns_into_a_probed_function_ends_one_call_and_begins_another() -> None:
    names = ("inner", "below", "outer", "nested", "stepper")
    specs = [spec for name in names for spec in (name, f"{name}%return")]
    run = run_probed([build_target("returns_assembly.S")], specs)
    assert (run.outcome.status, run.outcome.stdout) == (3, b"says hello world\n")
    assert [run.hits[name] for name in names] == [1, 2, 3, 3, 6]
    assert [run.hits[f"{name}%return"] for name in names] == [1, 2, 3, 3, 6]


def test_a_word_that_is_no_return_address_gets_no_trap() -> None:
    with pu.launch([str(build_target("returns_assembly.S"))]) as engine:
        probe = engine.probe("pushed%return")
        result = engine.run(timeout=60)
    assert result.exit_status == 3
    assert (probe.hits, probe.missed, probe.unreturned) == (0, 1, 0)
    assert "not behind a call" in next(iter(probe.missed_causes))
    run = run_probed([build_target("returns_assembly.S")], ["pushed%return"])
    assert run.outcome.stdout == b"says hello world\n"


@pytest.mark.parametrize("mode", ["grow", "migrate", "panic"])
def test_goroutines_return_from_stacks_that_are_moved_and_on_other_threads(mode: str) -> None:
    command: list[str | Path] = [build_go("returns_goroutines.go"), mode, "20", "60"]
    total = 0

    def add(hit: pu.Hit) -> None:
        nonlocal total
        total += hit.return_value

    spec = "main.probed%return"
    run = run_probed(command, [spec], handler=add)
    report = parse_report(run.outcome.stdout.decode())
    assert run.outcome.status == 0, run.outcome.stderr.decode()
    assert run.hits[spec] == report["main.probed_returns"]
    assert total & _MASK == report["main.probed_sum"] & _MASK
    assert run.missed[spec] == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("-O2",),
        ("-O2", "-Wl,-z,ibtplt"),
        ("-O2", "-Wl,-z,now"),
        ("-O2", "-static"),
        ("-O2", "-m32"),
    ],
    ids=" ".join,
)
def test_one_arrival_is_two_returns_where_a_stub_without_a_name_led_on(
    flags: tuple[str, ...],
) -> None:
    # GIVEN a function that ends with a jump to another, which a resolver has chosen
    program = build_target("returns_indirect.c", *flags)

    # WHEN the returns of both are probed
    probed = run_probed([program, "50"], ["outer%return", "inner%return"])

    # THEN each is reported
    report = parse_report(probed.outcome.stdout.decode())
    assert probed.outcome == run_plain([program, "50"])
    assert (report["outer"], report["inner"]) == (50, 50)
    assert probed.hits == {"outer%return": 50, "inner%return": 50}
