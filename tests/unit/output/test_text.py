"""Text output has the shape of the kernel's trace lines."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.output.jsonl import JsonLinesFormat
from ptrace_uprobes.output.printable import printable
from ptrace_uprobes.output.request import Request
from ptrace_uprobes.output.summary import summarize
from ptrace_uprobes.output.text import TextFormat
from tests.unit.output.fakes import (
    FakeFrame,
    FakeSite,
    FakeStack,
    a_hit,
    a_plan,
    a_probe,
    a_result,
)

# What `perf script`, trace-cmd and people's own scripts take apart.
TRACE_LINE = re.compile(
    r"^ *(?P<comm>.+)-(?P<tid>\d+) +\[(?P<cpu>\d{3})\] (?P<time>\d+\.\d{6}): (?P<event>\S+):"
    r" \((?P<address>0x[0-9a-f]+)\)\n$"
)


def test_a_hit_is_one_line_in_the_kernels_shape() -> None:
    # GIVEN a hit of this thread
    format_hit = TextFormat().hit_formatter(parse_definition("libc:malloc"))

    # WHEN it is formatted
    match = TRACE_LINE.match(format_hit(a_hit()))

    # THEN a parser of trace lines finds every fact
    assert match is not None
    assert match["comm"] == Path("/proc/thread-self/comm").read_text().rstrip("\n")
    assert int(match["tid"]) == threading.get_native_id()
    assert int(match["cpu"]) < (os.cpu_count() or 1)
    assert match["time"] == "12345.678901"
    assert match["event"] == "malloc"
    assert match["address"] == "0x7f0000001230"


def test_the_event_of_a_glob_is_the_place_that_was_hit() -> None:
    format_hit = TextFormat().hit_formatter(parse_definition("libc:mem*"))
    assert " memcpy+0x4: (" in format_hit(a_hit(label="memcpy+0x4"))


def test_microseconds_are_padded_and_never_rounded_up_into_the_next_second() -> None:
    format_hit = TextFormat().hit_formatter(parse_definition("f"))
    assert " 1.000000: " in format_hit(a_hit(time_ns=1_000_000_999))
    assert " 1.999999: " in format_hit(a_hit(time_ns=1_999_999_999))


def test_a_thread_that_has_died_meanwhile_still_gets_its_line() -> None:
    format_hit = TextFormat().hit_formatter(parse_definition("f"))
    assert TRACE_LINE.match(format_hit(a_hit(pid=2**22 + 1, tid=2**22 + 1)))


def test_a_thread_name_cannot_break_a_line_or_drive_a_terminal() -> None:
    assert printable("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
    assert printable(os.fsdecode(b"TWO\xf7\xff\x7f")) == "TWO\\xf7\\xff\\x7f"
    assert printable("naïve (x) y") == "naïve (x) y"


def test_a_renamed_thread_is_printed_under_its_new_name() -> None:
    # GIVEN a thread whose first hit has been printed
    format_hit = TextFormat().hit_formatter(parse_definition("f"))
    comm = Path("/proc/thread-self/comm")
    before = comm.read_text()[:-1]
    format_hit(a_hit())

    # WHEN it renames itself, with a name that looks like the end of the name field
    try:
        comm.write_text("x) S 1")
        line = format_hit(a_hit())
    finally:
        comm.write_text(before)

    # THEN the next line says so
    assert f"x) S 1-{threading.get_native_id()} " in line


def test_fetchargs_follow_the_address_and_the_events_own_name_is_used() -> None:
    definition = parse_definition("p:grp/allocates /x:0x10 size=%di name=+0(%si):string")
    line = TextFormat().hit_formatter(definition)(
        a_hit(label="0x10", address=0x10, arguments={"size": 0x20, "name": "words.txt"})
    )
    assert line.endswith(': allocates: (0x10) size=0x20 name="words.txt"\n')


def test_a_string_cannot_break_the_line() -> None:
    definition = parse_definition("f s=+0(%di):string")
    line = TextFormat().hit_formatter(definition)(a_hit(arguments={"s": "a\n b-1 [000] 1.0: x"}))
    assert line.count("\n") == 1
    assert 's="a\\n b-1' in line


def test_a_return_is_printed_as_the_kernel_prints_it() -> None:
    format_hit = TextFormat().hit_formatter(parse_definition("libc:malloc%return"))
    line = format_hit(a_hit(address=0x401234, function=0x7F0000001000))
    assert line.endswith(": malloc%return: (0x401234 <- 0x7f0000001000)\n")


def test_registers_and_data_are_fields_of_the_line() -> None:
    form = TextFormat(Request(regs=True, data_length=4))
    line = form.hit_formatter(parse_definition("f"))(
        a_hit(registers={"rdi": 0x1000, "rip": 0x401000}, memory={0x1000: b"\x00\xffab"})
    )
    assert " rax=0x0 rbx=0x0 " in line
    assert " rdi=0x1000 " in line
    assert " rip=0x401000 eflags=0x0 data=00ff6162\n" in line


def test_data_that_cannot_be_read_is_a_fault() -> None:
    form = TextFormat(Request(data_length=4))
    line = form.hit_formatter(parse_definition("f"))(
        a_hit(registers={"rdi": 0x1000}, memory={0x1000: b"abc"})
    )
    assert line.endswith(" data=(fault)\n")


def test_a_stack_has_a_line_for_each_frame_and_says_why_it_is_cut() -> None:
    frames = FakeStack(
        (
            FakeFrame(0x401000, "f", "prog"),
            FakeFrame(0x401050, "main+0x1c", "prog"),
            FakeFrame(0x7F0000000010, None, None),
        ),
        "no CFI for 0x7f0000000010",
    )
    form = TextFormat(Request(stack=True))
    assert form.hit_formatter(parse_definition("f"))(a_hit(frames=frames)).splitlines()[1:] == [
        " => f [prog]",
        " => main+0x1c [prog]",
        " => 0x7f0000000010",
        " => (the stack is cut here: no CFI for 0x7f0000000010)",
    ]


def test_a_plan_says_what_is_recorded_and_of_which_hits() -> None:
    plan = a_plan(spec="libc:malloc%return size=$retval", filter_text="size > 3")
    assert (
        TextFormat()
        .plan(plan)
        .endswith(" slot=0x1000; notes the call; hits at its return; records size; if size > 3\n")
    )


def test_a_plan_names_address_bytes_instruction_mechanism_and_slot() -> None:
    assert TextFormat().plan(a_plan()) == (
        "libc:malloc: 0x7f0000001230 /usr/lib/libc.so.6:malloc: f3 0f 1e fa: endbr64: boost"
        " slot=0x1000\n"
    )


def test_a_plan_says_why_it_is_not_what_was_asked_for() -> None:
    line = TextFormat().plan(a_plan("boost", "endbr64 cannot be stepped", None))
    assert line.endswith(": boost (endbr64 cannot be stepped)\n")


def test_the_summary_counts_each_probe_and_names_causes() -> None:
    # GIVEN probes that were hit, missed, whose handler raised, and that found no place
    probes = [
        a_probe("libc:malloc", FakeSite("malloc", "/libc.so.6", 10)),
        a_probe(
            "free", FakeSite("free", "/x", 1), missed_causes={"no memory": 2}, handler_errors=3
        ),
        a_probe("libnever:f"),
    ]

    # WHEN the run is summed up
    missing = {probes[2]: UprobesError("no module libnever")}
    text = TextFormat().summary(summarize(a_result(*probes, not_found=missing), probes, "auto"))

    # THEN nothing is lost silently
    assert text.splitlines() == [
        "11 hits, 2 missed; exit status 0",
        "  libc:malloc  10 hits",
        "  free         1 hit, 2 missed (no memory: 2), handler raised 3 times",
        "  libnever:f   0 hits, never planted: no module libnever",
        "  sites by mechanism: boost 1",
    ]


def test_the_summary_says_what_a_filter_rejected_and_which_calls_did_not_return() -> None:
    probes = [
        a_probe("f size=%di", FakeSite("f", "/x", 1), filter_text="size > 3", filtered=9),
        a_probe("f%return", FakeSite("f", "/x", 4), unreturned_causes={"its thread ended": 2}),
        a_probe("f size=%di", FakeSite("f", "/x", 1), filter_text="size < 3"),
    ]
    text = TextFormat().summary(summarize(a_result(*probes), probes, "auto"))
    assert text.splitlines()[1:4] == [
        "  f size=%di if size > 3  1 hit, 9 filtered",
        "  f%return                4 hits, 2 unreturned (its thread ended: 2)",
        "  f size=%di if size < 3  1 hit, 0 filtered",
    ]


def test_the_summary_cuts_a_very_long_definition_and_json_has_it_whole() -> None:
    spec = "f" + " %di" * 120
    probe = a_probe(spec, FakeSite("f", "/x", 1))
    summary = summarize(a_result(probe), [probe], "auto")
    line = TextFormat().summary(summary).splitlines()[1]
    assert line == f"  {spec[:197]}...  1 hit"
    assert f'"{spec}":{{"hits":1' in JsonLinesFormat().summary(summary)


def test_the_summary_of_a_glob_lists_the_places_that_were_hit_most_first() -> None:
    probe = a_probe(
        "libc:mem*",
        FakeSite("memchr", "/libc.so.6", 0),
        FakeSite("memcmp", "/libc.so.6", 3),
        FakeSite("memcpy", "/libc.so.6", 70),
    )
    text = TextFormat().summary(summarize(a_result(probe), [probe], "auto"))
    assert text.splitlines()[1:4] == [
        "  libc:mem*  73 hits, 3 places",
        "            70  memcpy",
        "             3  memcmp",
    ]


def test_the_summary_of_very_many_places_is_cut_short_and_says_so() -> None:
    probe = a_probe("libc:*", *(FakeSite(f"f{n}", "/libc.so.6", n) for n in range(1, 101)))
    lines = TextFormat().summary(summarize(a_result(probe), [probe], "auto")).splitlines()
    assert len(lines) == 24
    assert lines[-2].split() == [str(sum(range(1, 81))), "in", "80", "more", "places"]


def test_the_summary_says_which_sites_could_not_have_the_mechanism_asked_for() -> None:
    probe = a_probe("f", FakeSite("f", "/x", 1))
    result = a_result(probe, mechanisms={"boost": 2, "step": 5})
    assert "  2 sites could not have step and got boost\n" in TextFormat().summary(
        summarize(result, [probe], "step")
    )
    assert "could not have" not in TextFormat().summary(summarize(result, [probe], "auto"))


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ("timeout", "the duration is over, detached"),
        ("max_hits", "enough hits, detached"),
        ("interrupted", "interrupted, detached"),
    ],
)
def test_the_summary_says_why_we_let_go_of_a_program_that_goes_on(ended: str, words: str) -> None:
    probe = a_probe("f", FakeSite("f", "/x", 1))
    result = a_result(probe, exit_status=None, ended=ended)
    assert (
        TextFormat()
        .summary(summarize(result, [probe], "auto"))
        .startswith(f"1 hit, 0 missed; {words}\n")
    )
