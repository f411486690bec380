"""Stacks and returns of 32-bit programs: gdb's frames, and the programs' own accounts."""

from __future__ import annotations

import re
import shutil

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes.arch.x86 import I386
from ptrace_uprobes.unwind import Stack, Unwinder
from tests.support.gdb_frames import StoppedProgram, gdb_at, stopped_by_gdb
from tests.support.probed import run_plain, run_probed
from tests.support.thirty_two import FIXED, build_32

_ACCOUNT = re.compile(r"(\w+) entered (\d+) returned (\d+) sum (-?\d+)")


_OWN = {"main", "stop_here", "recurse", "on_signal", "on_fault", "body", "compare", "realigned"}


# -- stacks


def _walk(program: StoppedProgram, limit: int = 1000) -> Stack:
    return Unwinder(program.module_at, program.read, I386).walk(program.registers, limit)


def _names(stack: Stack) -> list[str]:
    return [str(frame.symbol).partition("+")[0].partition("@")[0] for frame in stack]


def _assert_as_gdb(program: StoppedProgram, stack: Stack) -> None:
    assert [f.address for f in stack] == [f.address for f in program.frames]
    assert [f.is_signal for f in stack] == [f.is_signal for f in program.frames]
    # The C library's functions have several names.
    pairs = zip(_names(stack), (frame.name for frame in program.frames), strict=True)
    own = [pair for pair in pairs if pair[1] in _OWN]
    assert own
    assert [ours for ours, _ in own] == [theirs for _, theirs in own]
    assert stack.cut is None


@pytest.fixture(autouse=True)
def _needs_gdb(request: pytest.FixtureRequest) -> None:
    if "gdb" in request.node.name and shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("recursion", ()),
        ("recursion", ("-O2", "-fomit-frame-pointer", *FIXED)),
        ("recursion", ("-static", *FIXED)),
        ("signal", ()),
        ("signal", ("-static", *FIXED)),
        ("altstack", ()),
        ("fault", ()),
        ("null", ()),
        ("realigned", ()),
        ("sorting", ()),
        ("thread", ()),
    ],
)
def test_frames_are_gdbs(mode: str, flags: tuple[str, ...]) -> None:
    command = [str(build_32("stacks.c", *flags)), mode]
    with stopped_by_gdb(command, "break stop_here", "run") as program:
        assert len(program.frames) >= 3
        _assert_as_gdb(program, _walk(program))


def test_at_every_instruction_frames_are_gdbs_through_the_plt_and_the_linker() -> None:
    commands = ("break main", "run", "advance clock_gettime@plt")
    with gdb_at([build_32("stacks.c", "-Wl,-z,lazy"), "clock"], *commands) as gdb:
        program = gdb.stopped()
        unwinder = Unwinder(program.module_at, program.read, I386)
        for _ in range(60):
            stack = unwinder.walk(program.registers)
            assert [f.address for f in stack] == [f.address for f in program.frames]
            assert stack.cut is None
            program = gdb.execute("stepi")


def test_at_every_instruction_of_the_vdsos_system_call_frames_are_gdbs() -> None:
    commands = ("break main", "run", "break *__kernel_vsyscall", "continue")
    with gdb_at([build_32("i386_calls.c"), "1"], *commands) as gdb:
        program = gdb.stopped()
        unwinder = Unwinder(program.module_at, program.read, I386)
        for _ in range(6):
            stack = unwinder.walk(program.registers)
            assert [f.address for f in stack] == [f.address for f in program.frames]
            assert stack.cut is None
            program = gdb.execute("stepi")


def test_a_hits_stack_is_the_calls_that_led_to_it() -> None:
    program = build_32("i386_calls.c", *FIXED)
    stacks: list[list[str]] = []
    probed = run_probed(
        [program, "1"],
        ["make_pair"],
        handler=lambda hit: stacks.append(_names(hit.stack())),
    )
    assert probed.warnings == ()
    chains = [names[: names.index("main") + 1] for names in stacks]
    assert chains == [
        ["make_pair", "main"],
        ["make_pair", "main"],
        *(["make_pair", *["recurse"] * depth, "main"] for depth in range(1, 5)),
    ]


# -- returns


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_every_way_to_leave_a_function_is_told_apart(mechanism: str) -> None:
    program = build_32("returned.cc", "-O2", "-lstdc++")
    plain = run_plain([program])
    accounts = {
        n: (int(e), int(r), int(s)) for n, e, r, s in _ACCOUNT.findall(plain.stdout.decode())
    }
    assert len(accounts) == 14
    values: dict[str, list[int]] = {name: [] for name in accounts}

    def note(hit: pu.Hit) -> None:
        if hit.is_return:
            value = hit.return_value
            values[hit.label].append(value - (1 << 32) if value >> 31 else value)

    specs = [spec for name in accounts for spec in (name, f"{name}%return")]
    with pu.launch([str(program)], mechanism=mechanism) as engine:
        probes = {spec: engine.probe(spec, note) for spec in specs}
        result = engine.run(timeout=120)
    assert result.exit_status == 0
    for name, (entered, returned, total) in accounts.items():
        left = probes[f"{name}%return"]
        assert probes[name].hits == entered, name
        assert (left.hits, left.unreturned, left.missed) == (returned, entered - returned, 0), name
        assert sum(values[name]) == total, name


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_functions_that_pop_what_they_were_given_return_too(mechanism: str) -> None:
    # GIVEN functions that end in `ret $N`, one by a jump to another
    program = build_32("i386_calls.c", *FIXED)
    names = ["make_pair", "jump_to_pair", "standard", "fast", "recurse", "thunk", "where", "main"]
    plain = run_plain([program, "10"])
    probed = run_probed(
        [program, "10"], [*names, *(f"{name}%return" for name in names)], mechanism=mechanism
    )
    assert probed.outcome == plain
    assert {n: probed.hits[f"{n}%return"] for n in names} == {n: probed.hits[n] for n in names}
    assert not any(probed.missed.values())
