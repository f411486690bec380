"""32-bit processes through their lives: exec from 64 to 32 bits and back, forks, signals, threads,
libraries, and the proposal's calls."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes.utrace import (
    UTRACE_GETDATA,
    UTRACE_GETREGS,
    UTRACE_STACKTRACE,
    utrace_addbp,
    utrace_launch,
    utrace_read,
    utrace_rmbp,
)
from tests.support.build import build_target
from tests.support.elf_tools import functions, instruction_addresses
from tests.support.let_go import UNHARMED, assert_let_go
from tests.support.probed import run_plain, run_probed
from tests.support.procfs import wait_until
from tests.support.target import parse_report, start_target
from tests.support.thirty_two import FIXED, PROPOSAL, build_32

_BITS = re.compile(r"bits (\d+) hot (\d+)")


def _chain() -> list[str]:
    """64-bit, 32-bit, 64-bit, 32-bit without a PIE, static 32-bit, 64-bit."""
    wide = str(build_target("execs.c"))
    narrow, fixed = str(build_32("execs.c")), str(build_32("execs.c", *PROPOSAL))
    static = str(build_32("execs.c", "-static", *FIXED))
    words: list[str] = []
    for count, program in enumerate((wide, narrow, wide, fixed, static, wide), start=3):
        words += [program, str(count)]
    return words


# -- exec


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_a_chain_of_execs_between_64_and_32_bits_is_counted_whole(mechanism: str) -> None:
    argv = _chain()
    plain = run_plain(argv)
    told = [(int(bits), int(count)) for bits, count in _BITS.findall(plain.stdout.decode())]
    assert told == [(64, 3), (32, 4), (64, 5), (32, 6), (32, 7), (64, 8)]
    seen: list[tuple[str, int]] = []

    def note(hit: pu.Hit) -> None:
        seen.append((hit.registers.architecture.name, hit.argument(0)))

    probed = run_probed(argv, ["hot"], mechanism=mechanism, handler=note)
    assert probed.outcome == plain
    assert probed.hits == {"hot": sum(count for _, count in told)}
    assert seen == [
        ("x86_64" if bits == 64 else "i386", number)
        for bits, count in told
        for number in range(count)
    ]
    assert probed.warnings == ()


def test_an_attached_process_is_followed_through_execs_to_32_bits_and_back() -> None:
    argv = _chain()
    with start_target(argv[0], *argv[1:]) as target:
        engine = pu.attach(target.pid, follow_forks=True)
        probe = engine.probe("hot")
        engine.start()
        ended = target.finish()
        engine.stop()
    told = [int(count) for _, count in _BITS.findall(ended.stdout)]
    assert ended.status == 0
    assert probe.hits == sum(told) == 33


# -- forks, signals, threads, libraries


@pytest.mark.parametrize("mode", ["tree", "vfork", "spawn", "chain", "shared-space"])
def test_families_of_32_bit_processes_are_counted_whole(mode: str) -> None:
    program = build_32("forks.c")
    probed = run_probed([program, mode, "3"], ["work", "parent_work"], follow_forks=True)
    report = parse_report(probed.outcome.stdout.decode())
    assert probed.outcome.status == 11
    assert report["unexpected"] == 0
    assert probed.hits == {"work": report["work"], "parent_work": report["parent_work"]}
    assert not any(probed.missed.values())


def test_children_that_are_not_followed_run_clean() -> None:
    program = build_32("forks.c")
    plain = run_plain([program, "tree", "3"])
    probed = run_probed([program, "tree", "3"], ["work", "parent_work"])
    assert probed.outcome == plain
    assert probed.hits["parent_work"] == parse_report(plain.stdout.decode())["parent_work"]


@pytest.mark.parametrize("mechanism", ["auto", "emulate", "step"])
def test_signals_in_the_middle_of_hits_are_as_without_us(mechanism: str) -> None:
    # GIVEN a program that checks what its handlers are shown
    program = build_32("signals.c")
    specs = ["probed", "on_plain", "on_outer", "on_inner", "on_jump", "on_alternate", "on_queued"]
    plain = run_plain([program, "5"])
    assert plain.status == 0

    # WHEN its functions and handlers are probed
    probed = run_probed([program, "5"], specs, mechanism=mechanism)

    # THEN its checks pass, and our counts are its own
    assert probed.outcome == plain
    report = parse_report(plain.stdout.decode())
    assert probed.hits == {spec: report[spec] for spec in specs}


@pytest.mark.parametrize("mechanism", ["auto", "step"])
@pytest.mark.parametrize("mode", ["restart", "eintr"])
def test_a_probed_int_0x80_restarts_or_fails_as_unprobed(mode: str, mechanism: str) -> None:
    program = build_32("restarts.c", *FIXED)
    plain = run_plain([program, mode, "15"])
    probed = run_probed(
        [program, mode, "15"], ["read_site", "read_after", "raw_read"], mechanism=mechanism
    )
    assert probed.outcome == plain
    report = parse_report(plain.stdout.decode())
    assert probed.hits["raw_read"] == 1 + report["interrupted"]
    assert probed.hits["read_after"] == 1 + report["interrupted"]
    assert 1 + report["interrupted"] <= probed.hits["read_site"] <= 16


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_a_storm_of_signals_and_threads_is_counted_and_let_go_of(mechanism: str) -> None:
    with start_target(build_32("server.c"), "3") as target:
        for _ in range(2):
            engine = pu.attach(target.pid, mechanism=mechanism)
            probes = [engine.probe("work"), engine.probe("on_tick")]
            engine.start()
            wait_until("hits", lambda p=probes: all(x.hits > 20 for x in p))  # type: ignore[misc]
            engine.stop()
            assert_let_go(target)
        assert target.finish().report.items() >= UNHARMED.items()


@pytest.mark.parametrize("bits", [64, 32])
def test_waits_that_our_stops_interrupt_go_on_as_if_nothing_had_been(bits: int) -> None:
    # GIVEN threads that wait in system calls, which the kernel restarts in various ways
    program = build_target("waits.c") if bits == 64 else build_32("waits.c")
    plain = run_plain([program, "50"])
    with start_target(program, "700") as target:
        # WHEN they are stopped again and again, and system calls are made in one of them; not until
        # all have ended, for a relative wait begins anew after a stop
        for attempt in range(15):
            try:
                engine = pu.attach(target.pid)
            except pu.UprobesError:
                assert attempt > 0
                break
            with contextlib.suppress(pu.UprobesError):
                engine.probe("waiter")
                engine.probe("libc:strlen").remove()
                engine.start()
            engine.stop()
        ended = target.finish()

    # THEN each wait ends as without us, and none too early
    assert ended.status == 0
    assert ended.stdout == plain.stdout.decode()


def test_an_ifunc_means_the_implementation_that_runs() -> None:
    for flags in ((), ("-static", *FIXED), ("-static-pie", "-fPIE")):
        program = build_32("ifunc.c", *flags)
        plain = run_plain([program, "40"])
        spec = "chosen" if flags else "libc:strlen"
        probed = run_probed([program, "40"], ["chosen", spec])
        assert probed.outcome == plain
        assert probed.hits["chosen"] == 40
        assert probed.hits[spec] >= 40


@pytest.mark.parametrize(
    "flags", [("-fPIC",), ("-fno-pic", "-Wl,-z,notext")], ids=["pic", "textrel"]
)
def test_a_library_that_is_loaded_later_is_probed_from_its_first_call(
    flags: tuple[str, ...],
) -> None:
    # GIVEN a library, one whose instructions the dynamic linker completes when it loads it
    plugin = build_32("plugin.c", "-shared", *flags, name="libplugin.so")
    program = build_32("dlopen_loop.c", "-ldl")
    plain = run_plain([program, plugin, "4"])
    report = parse_report(plain.stdout.decode())
    work = functions(plugin)["plugin_work"]
    offsets = [at - work.address for at in instruction_addresses(plugin, work)]
    specs = [f"libplugin:plugin_work+{at:#x}" for at in offsets[1:]]

    # WHEN every one of its instructions is probed, and what its constructor calls
    specs += ["libplugin:plugin_work", "libplugin:plugin_start"]
    probed = run_probed([program, plugin, "4"], specs)

    # THEN it computes what it does by itself, and each call is counted
    assert probed.outcome == plain
    assert probed.hits == dict.fromkeys(specs, report["plugin_work"]) | {specs[-1]: 4}


@pytest.mark.parametrize("mechanism", ["auto", "emulate", "step"])
def test_faults_of_probed_instructions_are_told_as_in_their_own_places(mechanism: str) -> None:
    # GIVEN a program that prints what its handlers are told of faults, and dies of one
    program = build_32("i386_faults.c", *FIXED)
    plain = run_plain([program])
    assert plain.status == 128 + signal.SIGSEGV

    # WHEN the instructions that fault are probed
    sites = [f"{name}_site" for name in ("read", "divide", "illegal", "call", "jump")]
    probed = run_probed([program], sites, mechanism=mechanism)

    # THEN it is told the same; what is mended runs, and hits, once more
    assert probed.outcome == plain
    assert probed.hits == dict(zip(sites, (7, 6, 3, 6, 3), strict=True))


# -- the proposal's calls, on a program where its own examples were


def test_the_proposals_calls_serve_a_program_at_its_own_addresses() -> None:
    program = build_32("hot_loop.c", *PROPOSAL)
    vaddr = functions(program)["hot"].address
    assert 0x08048000 <= vaddr < 0x0804C000
    request = UTRACE_GETREGS | UTRACE_STACKTRACE
    pid = utrace_launch([str(program), "50"], [(vaddr, request)])
    records = utrace_read(pid)
    log = list(records)
    assert records.exit_status == 0
    assert len(log) == 50
    for record in log:
        assert record.regs is not None
        assert record.regs["eip"] == record.address == vaddr
        assert record.regs["esp"] > 0xF000_0000
        assert "rip" not in record.regs
        assert record.stack is not None
        assert record.stack.cut is None
        assert [str(f.symbol).partition("+")[0] for f in record.stack][:2] == ["hot", "main"]


def test_the_proposals_calls_come_and_go_in_a_running_program() -> None:
    program = build_32("calls.c", *PROPOSAL)
    length = functions(program)["length"].address
    pid = utrace_launch([str(program), "1"], [(length, UTRACE_GETDATA, None, 12)])
    data = [record.data for record in utrace_read(pid)]
    assert data == [b"twelve chars", b"edges\0behind"]

    with start_target(build_32("server.c"), "2") as target:
        where = Path(f"/proc/{target.pid}/maps").read_text().splitlines()[0]
        work = functions(build_32("server.c"))["work"].address
        address = int(where.partition("-")[0], 16) + work
        utrace_addbp(target.pid, address, UTRACE_GETREGS)
        records = utrace_read(target.pid)
        first = [next(records) for _ in range(10)]
        utrace_rmbp(target.pid, address)
        assert {record.address for record in first} == {address}
        assert_let_go(target)
        assert target.finish().report.items() >= UNHARMED.items()
