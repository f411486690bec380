"""Every signal is delivered as without us, and system calls restart or fail as they would."""

from __future__ import annotations

import os
import signal

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report, start_target

_PROBED = [
    "probed",
    "on_plain",
    "on_outer",
    "on_inner",
    "on_jump",
    "on_alternate",
    "on_trap",
    "on_queued",
]


@pytest.mark.parametrize("mechanism", ["auto", "emulate", "boost", "step"])
def test_a_program_that_leans_on_signals_sees_what_it_would_see_without_us(mechanism: str) -> None:
    # GIVEN a program that checks what its handlers are shown
    program = build_target("signals.c")
    plain = run_plain([program, "5"])
    assert plain.status == 0

    # WHEN its functions and handlers are probed
    probed = run_probed([program, "5"], _PROBED, mechanism=mechanism)

    # THEN its checks pass, and our counts are its own
    assert probed.outcome.stdout.decode() == plain.stdout.decode()
    assert probed.outcome == plain
    report = parse_report(plain.stdout.decode())
    assert probed.hits == {spec: report[spec] for spec in _PROBED}


@pytest.mark.xfail(
    reason="docs/limits.md: a trap's SIGTRAP is forced, and what blocks or ignores it is reset",
    strict=True,
)
@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_a_hit_while_sigtrap_is_blocked_or_ignored_leaves_its_mask_and_its_handler(
    mechanism: str,
) -> None:
    # GIVEN a program that calls a function with SIGTRAP blocked, ignored, and in its handler
    program = build_target("signals.c")
    plain = run_plain([program, "3", "masked"])
    assert plain.status == 0

    # WHEN that function is probed
    probed = run_probed([program, "3", "masked"], ["probed"], mechanism=mechanism)

    # THEN what the kernel does to a blocked or ignored SIGTRAP at a trap has been put right
    assert probed.outcome.stdout.decode() == plain.stdout.decode()
    assert probed.outcome == plain


@pytest.mark.parametrize("mechanism", ["auto", "step"])
@pytest.mark.parametrize("mode", ["restart", "eintr"])
def test_a_probed_syscall_instruction_restarts_or_fails_as_unprobed(
    mode: str, mechanism: str
) -> None:
    # GIVEN a read that signals interrupt, by a `syscall` instruction that is probed
    program = build_target("restarts.c")
    plain = run_plain([program, mode, "25"])

    # WHEN its instructions are probed
    probed = run_probed(
        [program, mode, "25"], ["read_site", "read_after", "raw_read"], mechanism=mechanism
    )

    # THEN rax, rcx and rip are right in every handler and after every call
    assert probed.outcome.stdout.decode() == plain.stdout.decode()
    assert probed.outcome == plain
    report = parse_report(plain.stdout.decode())
    assert probed.hits["raw_read"] == 1 + report["interrupted"]
    assert probed.hits["read_after"] == 1 + report["interrupted"]
    # A restarted call executes the instruction again, which may be seen as one hit or two.
    assert 1 + report["interrupted"] <= probed.hits["read_site"] <= 26


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGTRAP])
def test_death_by_signal_is_reported_as_a_shell_would(number: signal.Signals) -> None:
    # GIVEN a command that kills itself
    argv = ["/bin/sh", "-c", f"kill -{int(number)} $$"]

    # WHEN it runs with and without us
    plain = run_plain(argv)
    probed = run_probed(argv, ["libc:getenv"])

    # THEN the status is the same
    assert plain.status == 128 + number
    assert probed.outcome == plain


@pytest.mark.parametrize(
    "number",
    [
        s
        for s in signal.valid_signals()
        if s not in {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT}
    ],
    ids=lambda number: f"signal-{int(number)}",
)
def test_each_signal_has_its_default_effect_on_a_probed_process(number: int) -> None:
    # GIVEN a process that has no handlers, probed
    harmless = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH}
    stopping = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    with start_target(build_target("sleeper.c")) as target:
        engine = pu.attach(target.pid)
        engine.probe("idle")
        engine.start()

        # WHEN the signal comes
        target.signal(number)
        if number in stopping:
            target.wait_event(f"stopped {int(number)}")
            target.signal(signal.SIGCONT)
        ended = target.finish()
        engine.stop()

    # THEN it kills, stops or does nothing, as signal(7) says
    expected = 5 if number in harmless | stopping else 128 + number
    assert ended.status == expected


def test_standard_input_of_a_blocked_read_arrives_after_attaching_and_detaching() -> None:
    # GIVEN a process blocked in read(2)
    with start_target(build_target("hot_loop.c"), "40") as target:
        # WHEN it is attached to and left, several times
        for _ in range(10):
            with pu.attach(target.pid) as engine:
                engine.probe("hot")

        # THEN its read was not disturbed
        target.go()
        ended = target.finish()
    assert ended.status == 0
    assert ended.report["hot"] == 40


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_a_trap_of_the_programs_own_that_stands_for_a_steps_end(mechanism: str) -> None:
    # GIVEN a program that sends itself SIGTRAP by a system call: stepped over, that ends in two
    # SIGTRAPs, of which the kernel keeps one
    program = build_target("sends_itself_traps.c")
    plain = run_plain([program, "50"])
    report = parse_report(plain.stdout.decode())
    assert (report["handled"], report["strange"], report["wrong"]) == (50, 0, 0)

    # WHEN the call, what follows it and the handler are probed
    probed = run_probed([program, "50"], ["sending", "adding", "on_trap"], mechanism=mechanism)

    # THEN its handler finds it behind the call, once each time, and it counts what it counted
    assert probed.outcome.stdout.decode() == plain.stdout.decode()
    assert probed.outcome == plain
    assert probed.hits == {"sending": 50, "adding": 50, "on_trap": 50}


def test_a_trap_of_the_programs_own_that_comes_before_a_step() -> None:
    # GIVEN a handler that sends SIGTRAP to the program at a hit, before the step
    program = build_target("sends_itself_traps.c")
    sent = 0

    def send(hit: pu.Hit) -> None:
        nonlocal sent
        if sent < 20:
            os.kill(hit.pid, signal.SIGTRAP)
            sent += 1

    # WHEN an instruction is stepped over
    probed = run_probed([program, "50"], ["adding"], handler=send, mechanism="step")
    report = parse_report(probed.outcome.stdout.decode())

    # THEN the program gets each of them, and has lost none of its own additions
    assert probed.outcome.status == 0
    assert (report["wrong"], report["added"], sent) == (0, 50, 20)
    assert report["handled"] == 70
    assert probed.hits == {"adding": 50}
