"""32-bit programs under the 64-bit tracer: found, counted and shown as 64-bit ones are.

The truth is the program's own account, its unprobed run, the kernel's uprobes, and binutils.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import ptrace_uprobes as pu
from tests.support.command import records, run
from tests.support.copies import private_copy
from tests.support.elf_tools import file_offset, functions, instruction_addresses
from tests.support.let_go import UNHARMED, assert_let_go
from tests.support.oracle import kernel_uprobes
from tests.support.probed import run_plain, run_probed
from tests.support.procfs import wait_until
from tests.support.target import parse_report, start_target
from tests.support.thirty_two import FIXED, PROPOSAL, build_32

KINDS = {
    "pie": ("-fPIE", "-pie"),
    "non-pie": FIXED,
    "at-0x08048000": PROPOSAL,
    "static": ("-static", *FIXED),
    "static-pie": ("-static-pie", "-fPIE"),
    "optimised": ("-O3", "-fomit-frame-pointer", *FIXED),
    "cet": ("-fcf-protection=full",),
}
MECHANISMS = ["auto", "emulate", "boost", "step"]
_COUNTED = ["look", "make_pair", "fast", "half", "recurse"]


def _hits(said: str) -> list[dict[str, Any]]:
    return records(said, "hit")


@pytest.mark.parametrize("kind", KINDS)
def test_a_launched_programs_functions_are_counted(kind: str) -> None:
    program = build_32("hot_loop.c", *KINDS[kind])
    plain = run_plain([program, "50"])
    probed = run_probed([program, "50"], ["hot"])
    assert probed.outcome == plain
    assert probed.hits == {"hot": 50}
    assert probed.warnings == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_programs_functions_are_counted_and_it_is_let_go_of(kind: str) -> None:
    with start_target(build_32("hot_loop.c", *KINDS[kind]), "50") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("hot")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()
    assert ended.status == 0
    assert probe.hits == ended.report["hot"] == 50


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_mechanism_counts_what_the_program_counts(mechanism: str) -> None:
    # GIVEN a program that calls in every way that i386 has
    program = build_32("i386_calls.c", *FIXED)
    plain = run_plain([program, "20"])

    # WHEN its functions are probed, system calls and thunks among them
    others = ["raw_site", "raw_getppid", "vdso_site", "where", "thunk", "standard", "main"]
    probed = run_probed([program, "20"], _COUNTED + others, mechanism=mechanism)

    # THEN it behaves as ever, and both count the same
    assert probed.outcome == plain
    report = parse_report(plain.stdout.decode())
    assert {name: probed.hits[name] for name in _COUNTED} == {n: report[n] for n in _COUNTED}
    assert {name: probed.hits[name] for name in others} == dict.fromkeys(others, 20) | {"main": 1}
    assert not any(probed.missed.values())


def _every_instruction(module: str, path: Path, names: list[str]) -> dict[str, tuple[Path, int]]:
    """SPEC to file and offset."""
    places = {}
    for name in names:
        function = functions(path)[name]
        for address in instruction_addresses(path, function):
            at = address - function.address
            spec = f"{module}:{name}+{at:#x}" if at else f"{module}:{name}"
            places[spec] = (path, file_offset(path, address))
    return places


def test_a_trap_on_every_instruction_counts_what_the_kernel_counts(tmp_path: Path) -> None:
    # GIVEN copies of a program and its libc, and every instruction of some of their functions
    program = build_32("i386_calls.c", *FIXED)
    copy = private_copy(program, tmp_path / "copy", "libc.", copy_program=True)
    libc = copy.libraries["libc.so.6"]
    own = [*_COUNTED, "main", "where", "standard", "vdso_getppid", "raw_getppid"]
    places = _every_instruction(str(copy.program), copy.program, own)
    places |= _every_instruction("libc", libc, ["printf", "putchar", "getenv", "fflush"])
    assert len(places) > 200
    compared = dict(list(places.items())[::20])  # the kernel takes a fifth of a second for each

    # WHEN it runs under the kernel's probes, and under ours
    argv = [str(copy.program), "7"]
    plain = run_plain(argv, env=copy.environment)
    with kernel_uprobes(compared) as kernel_hits:
        observed = run_plain(argv, env=copy.environment)
        expected = kernel_hits()
    probed = run_probed(argv, list(places), env=copy.environment)

    # THEN nobody can tell the three apart, and the counts are the same
    assert observed == plain
    assert probed.outcome == plain
    assert not any(probed.missed.values())
    assert {spec: probed.hits[spec] for spec in expected} == expected
    assert sum(expected.values()) > 100


@pytest.mark.parametrize("mechanism", ["emulate", "step"])
def test_a_trap_on_every_instruction_changes_nothing_by_any_mechanism(mechanism: str) -> None:
    program = build_32("i386_calls.c", "-fcf-protection=full", "-O2")
    own = [*_COUNTED, "where", "standard", "fast", "vdso_getppid", "raw_getppid"]
    places = _every_instruction(str(program), program, own)
    plain = run_plain([program, "2"])
    boosted = run_probed([program, "2"], list(places))
    probed = run_probed([program, "2"], list(places), mechanism=mechanism)
    assert probed.outcome == boosted.outcome == plain
    assert probed.hits == boosted.hits
    assert not any(probed.missed.values())


# -- what is shown of a hit

_LOOK = re.compile(r"look (.*) (\d+) (-?\d+) (-?\d+) (\w+) (\w+)")


def test_handlers_see_arguments_and_registers_by_their_i386_names() -> None:
    program = build_32("i386_calls.c")
    seen: list[tuple[object, ...]] = []
    frames: set[tuple[str, ...]] = set()

    def on_look(hit: pu.Hit) -> None:
        registers = hit.registers
        text, byte, number, low, high, words = (hit.argument(n) for n in range(6))
        wide = int.from_bytes(
            low.to_bytes(4, "little") + high.to_bytes(4, "little"), "little", signed=True
        )
        pointers = hit.read(words, 8)
        strings = [
            hit.read_string(int.from_bytes(pointers[at : at + 4], "little")) for at in (0, 4)
        ]
        short = (number & 0xFFFF ^ 0x8000) - 0x8000
        seen.append((hit.read_string(text), byte & 0xFF, short, wide, *strings))
        assert registers.eip == registers.rip == hit.address
        assert registers.esp == registers.rsp < 1 << 32
        assert repr(registers).startswith(f"I386Registers(eax={registers.eax:#x}, ebx=")
        with pytest.raises(AttributeError):
            registers.r16  # noqa: B018
        frames.add(tuple(registers.as_dict()))

    probed = run_probed([program, "6"], ["look"], handler=on_look)
    told = [
        (a.encode(), int(b), int(c), int(d), e.encode(), f.encode())
        for a, b, c, d, e, f in _LOOK.findall(probed.outcome.stdout.decode())
    ]
    assert len(told) == 6
    assert seen == told
    assert frames == {("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip", "eflags")}
    assert probed.warnings == ()


def test_a_handler_changes_registers_memory_and_skips_functions() -> None:
    # GIVEN handlers that lie to the program
    program = build_32("calls.c")
    plain = parse_report(run_plain([program, "1"]).stdout.decode())
    with pu.launch([str(program), "1"]) as engine:

        @engine.probe("skipped")
        def skip(hit: pu.Hit) -> None:
            hit.return_now(-5)

        @engine.probe("tick%return")
        def lie(hit: pu.Hit) -> None:
            assert hit.return_value == hit.registers.eax
            hit.registers.eax = 77

        result = engine.run(timeout=60)
    assert result.exit_status is not None
    assert plain


def test_fetchargs_are_of_four_bytes_and_read_the_stack_by_the_abi() -> None:
    program = build_32("i386_calls.c")
    spec = (
        "look text=+0($arg1):string byte=+8(%sp):u8 number=+12(%esp):s16 wide=+0x10(%sp):s64"
        " first=+0(+0(arg5)):string words=+0(arg5):string[2] sp=%esp stack=$stack ip=%eip"
        " word1=$stack1 also=arg0 back=$stack0"
    )
    probed = run("-e", spec, "--format", "jsonl", "--", program, "6")
    told = _LOOK.findall(probed.stdout)
    hits = [hit["args"] for hit in _hits(probed.stderr)]
    assert [
        (h["text"], str(h["byte"]), str(h["number"]), str(h["wide"]), *h["words"]) for h in hits
    ] == told
    for hit in hits:
        assert hit["first"] == "alpha"
        assert int(hit["sp"], 16) == int(hit["stack"], 16)
        assert hit["word1"] == hit["also"]
        assert int(hit["ip"], 16) - 0x1000 < int(hit["back"], 16) < int(hit["ip"], 16) + 0x1000


def test_a_filter_and_a_returned_value_are_of_four_bytes() -> None:
    program = build_32("i386_calls.c")
    entry = ("-e", "look length=+8(%sp):u8", "--filter", "length < 3")
    leaving = ("-e", "look%return value=$retval:s32")
    probed = run(*entry, *leaving, "--format", "jsonl", "--", program, "6")
    hits = _hits(probed.stderr)
    told = [(text, int(byte)) for text, byte, *_ in _LOOK.findall(probed.stdout)]
    assert [h["args"]["length"] for h in hits if "length" in h["args"]] == [
        byte for _, byte in told if byte < 3
    ]
    assert [h["args"]["value"] for h in hits if "value" in h["args"]] == [
        -len(text) for text, _ in told
    ]


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_requested_registers_are_shown_by_their_i386_names(form: str) -> None:
    program = build_32("hot_loop.c", *PROPOSAL)
    address = functions(program)["hot"].address
    probed = run("-e", "hot", "--request", "regs", "--format", form, "--", program, "3")
    if form == "jsonl":
        registers = [hit["regs"] for hit in _hits(probed.stderr)]
        assert {tuple(r) for r in registers} == {
            ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip", "eflags")
        }
        assert {r["eip"] for r in registers} == {f"{address:#x}"}
        return
    lines = [line for line in probed.stderr.splitlines() if ": hot: (" in line]
    assert len(lines) == 3
    for line in lines:
        assert re.search(rf" eax=0x\w+ ebx=.* esp=0xf\w{{7}} eip={address:#x} eflags=0x\w+$", line)


def test_detaching_in_the_middle_leaves_the_program_as_it_was() -> None:
    # GIVEN a program whose threads hit all the time
    with start_target(build_32("server.c"), "3") as target:
        maps = Path(f"/proc/{target.pid}/maps")
        before = maps.read_text()
        engine = pu.attach(target.pid)
        probes = [engine.probe("work"), engine.probe("on_tick")]
        engine.start()
        wait_until("hits", lambda: probes[0].hits > 200)
        during = maps.read_text()
        engine.stop()

        # THEN no byte and no mapping of ours is left
        assert_let_go(target)
        assert maps.read_text() == before != during
        assert target.finish().report.items() >= UNHARMED.items()
