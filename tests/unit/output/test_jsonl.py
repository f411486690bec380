"""JSON lines hold the records of the design, and nothing else."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from ptrace_uprobes.output.jsonl import JsonLinesFormat
from ptrace_uprobes.output.summary import summarize
from tests.unit.output.fakes import FakeSite, a_hit, a_plan, a_probe, a_result


def test_a_hit_record_has_exactly_these_fields_in_this_order() -> None:
    line = JsonLinesFormat().hit_formatter("libc:malloc")(a_hit())
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
    assert json.loads(JsonLinesFormat().hit_formatter(spec)(a_hit()))["probe"] == spec


def test_a_thread_name_of_any_bytes_keeps_the_record_valid() -> None:
    comm = Path("/proc/thread-self/comm")
    before = comm.read_text()[:-1]
    try:
        comm.write_bytes(b'"\\\n\xff\x01')
        line = JsonLinesFormat().hit_formatter("f")(a_hit())
    finally:
        comm.write_text(before)
    assert line.count("\n") == 1
    assert line.isascii()
    assert os.fsencode(json.loads(line)["comm"]) == b'"\\\n\xff\x01'


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
