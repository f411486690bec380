"""A SIGTRAP of the program's own does what it does without us, whether we live or are dead."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptrace_uprobes.engine import trap_handlers
from ptrace_uprobes.engine.safety_net import SafetyNet
from ptrace_uprobes.linux.memory import ProcessMemory
from ptrace_uprobes.remote_syscall import RemoteCalls
from tests.support.build import build_target
from tests.support.cores import Core, dumping, read_core
from tests.support.doomed import assert_whole_again
from tests.support.probed import run_plain, run_probed
from tests.support.procfs import wait_until
from tests.support.target import parse_report, start_target
from tests.support.thirty_two import build_32
from tests.support.tracers import Tracers, tracers


@pytest.fixture(scope="module")
def started() -> Iterator[Tracers]:
    with tracers() as made:
        yield made


_USER_TIME = 11  # of what follows the name in /proc/PID/stat: proc_pid_stat(5), utime
_TICKS_OF_SPINNING = 5


def _program(bits: int) -> Path:
    return build_target("own_traps.c") if bits == 64 else build_32("own_traps.c")


def _death(started: Tracers, directory: Path, bits: int, way: str, tracer_is: str) -> Core:
    """The core of a program that dies of a SIGTRAP of its own."""
    with start_target(_program(bits), way, wrapper=dumping(directory)) as target:
        if tracer_is != "none":
            tracer = started.start(target.pid, ["hot"])
        if tracer_is == "dead":
            started.kill(tracer)
            assert_whole_again(target)
        target.go()
        if way in ("waits", "spins"):
            stdout = Path(f"/proc/{target.pid}/fd/1")
            wait_until("it is there", lambda: stdout.stat().st_size > 0)
            wait_until("it is in its place", lambda: _is_there(target.pid, way))
            target.signal(signal.SIGTRAP)
            target.wait_event(f"killed {signal.SIGTRAP:d}")
        ended = target.finish()
    assert ended.report == {"hot": 16}
    assert ended.status == 128 + signal.SIGTRAP
    return read_core(directory)


def _is_there(pid: int, way: str) -> bool:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if way == "waits":
        return fields[0] == "S"
    # It runs after its output, too: until it has used more ticks than all that can have taken.
    return int(fields[_USER_TIME]) >= _TICKS_OF_SPINNING


@pytest.mark.parametrize("way", ["int3", "sends", "waits", "spins"])
@pytest.mark.parametrize("bits", [64, 32])
def test_a_trap_of_the_programs_own_leaves_the_core_that_it_leaves_without_us(
    started: Tracers, tmp_path: Path, bits: int, way: str
) -> None:
    # GIVEN the core that it leaves by itself
    plain = _death(started, tmp_path, bits, way, "none")
    assert plain.signal == signal.SIGTRAP
    compared = _TELLING if way == "sends" else plain.registers.keys()  # others hold its pid

    for tracer_is in ("alive", "dead"):
        # WHEN it was probed before, THEN the core says the same
        core = _death(started, tmp_path, bits, way, tracer_is)
        assert (core.signal, core.code) == (plain.signal, plain.code)
        changed = {n for n in compared if core.registers[n] != plain.registers[n]}
        # Once we are dead a handler ran first: a system call is over then (docs/limits.md).
        assert changed <= (_OF_CALLS if tracer_is == "dead" else set())


_TELLING = ("ip", "sp", "flags", "ax", "orig_ax", "cs")
_OF_CALLS = {"ip", "ax", "orig_ax"}


@pytest.mark.parametrize("mechanism", ["auto", "step"])
@pytest.mark.parametrize("bits", [64, 32])
def test_a_handler_of_the_programs_own_is_kept_although_it_is_probed(
    bits: int, mechanism: str
) -> None:
    # GIVEN a program whose handler of SIGTRAP calls a function, with the signal blocked
    program = _program(bits)
    plain = run_plain([program, "handled", "20"])
    report = parse_report(plain.stdout.decode())
    assert report == {
        "hot": 16,
        "handled": 40,
        "calls": 120,
        "blocked": 40,
        "of_kernel": 20,
        "sent": 20,
        "kept": 1,
        "left": 0,
    }

    # WHEN both are probed, THEN the handler is called each time, and stays
    specs = ["hot", "on_trap", "inside"]
    probed = run_probed([program, "handled", "20"], specs, mechanism=mechanism)
    assert probed.outcome == plain
    assert probed.hits == {"hot": 1, "on_trap": 40, "inside": 120}


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_no_signal_is_lost_where_the_last_resort_is_put_back_again_and_again(
    mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a program that hits with SIGTRAP blocked, and so has the kernel take its action away
    put_back = []
    real = SafetyNet.hang_again

    def hang_again(net: SafetyNet, remote: RemoteCalls, memory: ProcessMemory) -> None:
        put_back.append(net)
        real(net, remote, memory)

    monkeypatch.setattr(SafetyNet, "hang_again", hang_again)
    monkeypatch.setattr(trap_handlers, "_WATCH_SECONDS", 0.0)
    # WHEN that is looked for after each burst of hits, amid signals
    count = 1000
    probed = run_probed([build_target("aloof_signals.c"), str(count)], ["hot"], mechanism=mechanism)
    # THEN all of these arrive
    assert parse_report(probed.outcome.stdout.decode()) == {"got": count}
    assert put_back
