"""JSON lines hold the records of the design, and nothing else."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.output.jsonl import JsonLinesFormat
from ptrace_uprobes.output.request import Request
from ptrace_uprobes.output.summary import summarize
from tests.unit.output.fakes import (
    FakeFrame,
    FakeSite,
    FakeStack,
    a_hit,
    a_plan,
    a_probe,
    a_result,
)


def test_a_hit_record_has_exactly_these_fields_in_this_order() -> None:
    line = JsonLinesFormat().hit_formatter(parse_definition("libc:malloc"))(a_hit())
    assert line.endswith("\n")
    assert list(json.loads(line).items()) == [
        ("type", "hit"),
        ("time_ns", 12_345_678_901_234),
        ("pid", os.getpid()),
        ("tid", threading.get_native_id()),
        ("comm", Path("/proc/thread-self/comm").read_text().rstrip("\n")),
        ("probe", "libc:malloc"),
        ("address", "0x7f0000001230"),
    ]


def test_the_probe_of_a_record_is_the_spec_as_given_whatever_it_holds() -> None:
    spec = 'odd"\\path/é:f*'
    assert (
        json.loads(JsonLinesFormat().hit_formatter(parse_definition(spec))(a_hit()))["probe"]
        == spec
    )


def test_a_thread_name_of_any_bytes_keeps_the_record_valid() -> None:
    comm = Path("/proc/thread-self/comm")
    before = comm.read_text()[:-1]
    try:
        comm.write_bytes(b'"\\\n\xff\x01')
        line = JsonLinesFormat().hit_formatter(parse_definition("f"))(a_hit())
    finally:
        comm.write_text(before)
    assert line.count("\n") == 1
    assert line.isascii()
    assert json.loads(line)["comm"] == '"\\\n\\xff\x01'


@given(st.text() | st.binary().map(os.fsdecode))
def test_no_string_holds_what_other_parsers_refuse(text: str) -> None:
    # RFC 8259, 8.2: a lone surrogate, as Python has for a byte that is no UTF-8.
    form = JsonLinesFormat().hit_formatter(parse_definition("f a=+0(%si):string[1] b=%di"))
    line = form(a_hit(arguments={"a": text, "b": 1}))
    text.encode("utf-8", "surrogateescape")
    found = json.loads(line)["args"]["a"]
    assert found == text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    found.encode("utf-8")


def test_a_path_that_is_no_utf8_is_escaped_everywhere() -> None:
    spec = "/srv/\udcff\U0001f9ff:f"
    form = JsonLinesFormat()
    lines = [
        form.hit_formatter(parse_definition(spec))(a_hit()),
        form.plan(a_plan(spec=spec, filter_text='comm == "\udcfe"')),
        form.summary(summarize(a_result(a_probe(spec)), [a_probe(spec)], "auto")),
    ]
    for line in lines:
        assert "/srv/\\xff\U0001f9ff:f" in str(json.loads(line)).replace("\\\\", "\\")
        str(json.loads(line)).encode("utf-8")


def test_fetchargs_are_an_object_of_their_names() -> None:
    form = JsonLinesFormat().hit_formatter(parse_definition("f a=%di b=+0(%si):string"))
    record = json.loads(form(a_hit(arguments={"a": 7, "b": 'x"\n'})))
    assert record["args"] == {"a": 7, "b": 'x"\n'}


def test_a_return_has_its_function_and_its_value() -> None:
    form = JsonLinesFormat().hit_formatter(parse_definition("f%return"))
    record = json.loads(form(a_hit(address=0x401234, function=0x401000, return_value=2**64 - 1)))
    assert record["address"] == "0x401234"
    assert record["function"] == "0x401000"
    assert record["return_value"] == "0xffffffffffffffff"


def test_what_was_requested_is_there_and_nothing_else() -> None:
    frames = FakeStack(
        (FakeFrame(0x401000, "f", "prog"), FakeFrame(0x7F0000000010, None, None)), "limit"
    )
    hit = a_hit(
        registers={"rdi": 0x1000, "rip": 0x401000}, memory={0x1000: b"\x00a"}, frames=frames
    )
    definition = parse_definition("f")

    def record(request: Request) -> dict[str, object]:
        fields: dict[str, object] = json.loads(
            JsonLinesFormat(request).hit_formatter(definition)(hit)
        )
        return {name: fields[name] for name in list(fields)[7:]}

    regs = record(Request(regs=True))["regs"]
    assert isinstance(regs, dict)
    assert (regs["rdi"], regs["rip"]) == ("0x1000", "0x401000")
    assert record(Request(data_length=2)) == {"data": "0061"}
    assert record(Request(data_length=3)) == {"data": None}
    assert record(Request(stack=True)) == {
        "stack": [
            {"address": "0x401000", "symbol": "f", "module": "prog"},
            {"address": "0x7f0000000010", "symbol": None, "module": None},
        ],
        "stack_cut": "limit",
    }


def test_a_plan_record_tells_of_returns_fetchargs_and_filters_where_there_are_any() -> None:
    plan = a_plan(spec="f%return size=$retval", filter_text="size > 3")
    record = json.loads(JsonLinesFormat().plan(plan))
    assert {name: record[name] for name in ("return", "args", "filter")} == {
        "return": True,
        "args": ["size"],
        "filter": "size > 3",
    }


def test_a_summary_record_counts_filtered_and_unreturned_where_they_apply() -> None:
    probes = [
        a_probe("f", FakeSite("f", "/x", 1), filter_text="a > 3", filtered=9),
        a_probe("g%return", FakeSite("g", "/x", 4), unreturned_causes={"its thread ended": 2}),
    ]
    record = json.loads(JsonLinesFormat().summary(summarize(a_result(*probes), probes, "auto")))
    assert record["probes"] == {
        "f": {"hits": 1, "missed": 0, "filtered": 9},
        "g%return": {"hits": 4, "missed": 0, "unreturned": 2},
    }


def test_two_probes_of_one_spec_are_told_apart_by_their_filters() -> None:
    probes = [
        a_probe("f", FakeSite("f", "/x", 1), filter_text="a > 3", filtered=1),
        a_probe("f", FakeSite("f", "/x", 2)),
    ]
    record = json.loads(JsonLinesFormat().summary(summarize(a_result(*probes), probes, "auto")))
    assert list(record["probes"]) == ["f if a > 3", "f"]


def test_a_plan_record_has_exactly_these_fields() -> None:
    assert json.loads(JsonLinesFormat().plan(a_plan())) == {
        "type": "plan",
        "probe": "libc:malloc",
        "address": "0x7f0000001230",
        "bytes": "f30f1efa",
        "instruction": "endbr64",
        "mechanism": "boost",
        "reason": None,
    }


def test_a_summary_record_of_a_single_place_has_no_sites() -> None:
    probe = a_probe("libc:malloc", FakeSite("malloc", "/libc.so.6", 10))
    assert json.loads(JsonLinesFormat().summary(summarize(a_result(probe), [probe], "auto"))) == {
        "type": "summary",
        "probes": {"libc:malloc": {"hits": 10, "missed": 0}},
        "mechanisms": {"boost": 1},
        "exit_status": 0,
    }


def test_a_summary_record_of_a_glob_has_its_total_and_each_place() -> None:
    probe = a_probe(
        "libc:mem*", FakeSite("memcpy", "/libc.so.6", 7), FakeSite("memcmp", "/libc.so.6", 0)
    )
    record = json.loads(JsonLinesFormat().summary(summarize(a_result(probe), [probe], "auto")))
    assert record["probes"]["libc:mem*"] == {
        "hits": 7,
        "missed": 0,
        "sites": {"memcpy": {"hits": 7, "missed": 0}, "memcmp": {"hits": 0, "missed": 0}},
    }


def test_of_a_return_probe_each_place_says_how_many_calls_did_not_return() -> None:
    sites = FakeSite("memcpy", "/libc.so.6", 7), FakeSite("memcmp", "/libc.so.6", 0, 0, 2)
    probe = a_probe("libc:mem*%return", *sites, unreturned_causes={"its thread ended": 2})
    record = json.loads(JsonLinesFormat().summary(summarize(a_result(probe), [probe], "auto")))
    assert record["probes"]["libc:mem*%return"] == {
        "hits": 7,
        "missed": 0,
        "unreturned": 2,
        "sites": {
            "memcpy": {"hits": 7, "missed": 0, "unreturned": 0},
            "memcmp": {"hits": 0, "missed": 0, "unreturned": 2},
        },
    }


def test_a_glob_that_matched_one_place_still_names_it() -> None:
    probe = a_probe("libc:mallo?", FakeSite("malloc", "/libc.so.6", 7))
    record = json.loads(JsonLinesFormat().summary(summarize(a_result(probe), [probe], "auto")))
    assert list(record["probes"]["libc:mallo?"]["sites"]) == ["malloc"]


def test_the_same_name_in_two_modules_is_told_apart() -> None:
    probe = a_probe("init", FakeSite("init", "/lib/a.so", 1), FakeSite("init", "/lib/b.so", 2))
    record = json.loads(JsonLinesFormat().summary(summarize(a_result(probe), [probe], "auto")))
    assert record["probes"]["init"]["sites"] == {
        "a.so:init": {"hits": 1, "missed": 0},
        "b.so:init": {"hits": 2, "missed": 0},
    }


def test_a_program_that_goes_on_has_a_null_exit_status() -> None:
    probe = a_probe("f", FakeSite("f", "/x", 1))
    result = a_result(probe, exit_status=None, ended="timeout")
    record = json.loads(JsonLinesFormat().summary(summarize(result, [probe], "auto")))
    assert record["exit_status"] is None
