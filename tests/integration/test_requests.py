"""What the command records: fetchargs, filters, returns, registers, data and stacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.build import build_target
from tests.support.command import records, run
from tests.support.oracle import require_tracefs


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("requests") / "words"
    path.write_text("c\nb\na\n")
    return path


def test_a_string_argument_is_what_the_program_asked_for(words: Path) -> None:
    probed = run("-e", "libc:getenv name=+0(%di):string", "--", "sort", words)
    assert probed.stdout == "a\nb\nc\n"
    assert re.search(r': getenv: \(0x[0-9a-f]+\) name="TMPDIR"$', probed.stderr, re.MULTILINE)


def test_a_filter_keeps_what_it_rejects_out_of_lines_and_counts_it(words: Path) -> None:
    # GIVEN how often sort asks for memory, and for how much
    spec = "libc:malloc size=%di:u64"
    everything = run("-e", spec, "--format", "jsonl", "--", "sort", words)
    sizes = [hit["args"]["size"] for hit in records(everything.stderr, "hit")]

    # WHEN only large requests are wanted
    probed = run("-e", spec, "--filter", "size > 1000", "--format", "jsonl", "--", "sort", words)

    # THEN these are there, and the others are counted
    large = [size for size in sizes if size > 1000]
    assert [hit["args"]["size"] for hit in records(probed.stderr, "hit")] == large
    (summary,) = records(probed.stderr, "summary")
    assert summary["probes"][spec] == {
        "hits": len(large),
        "missed": 0,
        "filtered": len(sizes) - len(large),
    }


def test_a_return_probe_shows_the_value_and_both_addresses(words: Path) -> None:
    # GIVEN both ends of write(2), through libc
    probed = run("-e", "libc:write", "-e", "libc:write%return", "--format", "jsonl", "sort", words)
    entry, leaving = records(probed.stderr, "hit")
    # THEN the return belongs to the call
    assert leaving["function"] == entry["address"]
    assert leaving["address"] != entry["address"]
    assert leaving["return_value"] == f"{len(probed.stdout):#x}"
    (summary,) = records(probed.stderr, "summary")
    assert summary["probes"]["libc:write%return"] == {"hits": 1, "missed": 0, "unreturned": 0}


def test_a_file_of_definitions_is_as_many_probes(words: Path, tmp_path: Path) -> None:
    path = tmp_path / "definitions"
    path.write_text("# both ends\nlibc:write n=%dx:u64\n\nlibc:write%return n=$retval:s64\n")
    probed = run("-e", f"@{path}", "--filter", "n == 6", "--format", "jsonl", "sort", words)
    assert [hit["args"] for hit in records(probed.stderr, "hit")] == [{"n": 6}, {"n": 6}]


def test_a_bad_line_of_a_file_of_definitions_is_named(tmp_path: Path) -> None:
    path = tmp_path / "definitions"
    path.write_text("libc:write\nlibc:write n=%nothing\n")
    failed = run("-e", f"@{path}", "true")
    assert failed.status == 2
    assert f"{path}:2: " in failed.error


def test_registers_data_and_stack_are_there_when_asked_for(words: Path) -> None:
    # WHEN all three are requested of the write of the sorted lines
    probed = run(
        *("-e", "libc:write fd=%di:u32", "--request", "regs,data,stack", "--length", "1"),
        *("--format", "jsonl", "--filter", "fd == 1", "sort", words),
    )
    # THEN the registers are those of the call, and data is read where its first argument says
    (hit,) = records(probed.stderr, "hit")
    assert hit["regs"]["rip"] == hit["address"]
    assert hit["regs"]["rdi"] == "0x1"
    assert hit["regs"]["rdx"] == f"{len(probed.stdout):#x}"
    assert hit["data"] is None  # a file descriptor is no address
    assert hit["stack"][0]["address"] == hit["address"]
    assert hit["stack"][0]["symbol"] in ("write", "__write")
    assert any(frame["module"] == "sort" for frame in hit["stack"])


def test_data_is_the_bytes_at_the_first_argument(words: Path) -> None:
    probed = run(
        *("-e", "libc:getenv name=+0(%di):string", "--request", "data", "--length", "3"),
        *("--format", "jsonl", "sort", words),
    )
    hits = records(probed.stderr, "hit")
    assert hits
    for hit in hits:
        assert bytes.fromhex(hit["data"])[:3] == f"{hit['args']['name']}\0\0".encode()[:3]


def test_in_text_a_stack_is_a_line_for_each_frame_below_its_hit(words: Path) -> None:
    probed = run("-e", "libc:write", "--request", "stack", "sort", words)
    lines = probed.stderr.splitlines()
    assert re.search(r": write: \(0x[0-9a-f]+\)$", lines[0])
    frames = lines[1 : lines.index("1 hit, 0 missed; exit status 0")]
    assert len(frames) > 3
    assert all(re.fullmatch(r" => \S+( \[\S+\])?", frame) for frame in frames)
    assert re.fullmatch(r" => _start\+0x[0-9a-f]+ \[sort\]|.*\[sort\]", frames[-1])


def test_data_of_a_return_is_refused() -> None:
    failed = run("-e", "libc:write%return", "--request", "data", "--length", "8", "true")
    assert failed.status == 2
    assert "its first argument is gone" in failed.error


def test_explain_says_what_is_recorded_and_of_which_hits() -> None:
    explained = run("--explain", "-e", "libc:write%return n=$retval:s64", "--filter", "n < 0", "ls")
    assert explained.status == 0
    (line,) = explained.stdout.splitlines()
    assert line.startswith("libc:write%return n=$retval:s64: 0x")
    assert line.endswith("; notes the call; hits at its return; records n; if n < 0")


def _append(path: Path, line: str) -> None:
    # uprobe_events cannot seek, which open(path, "a") does; O_TRUNC removes the events of others.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


DEFINITIONS = (
    "libc:malloc size=%di:u64",
    "libc:malloc%return block=$retval",
    "libc:getenv name=+0(%di):string",
    "libc:mem*cpy to=arg0 size=arg2:u64",
)


def test_emit_kernel_prints_what_the_kernel_takes_and_the_program_does_not_run(
    tmp_path: Path,
) -> None:
    # WHEN definitions are printed for the kernel
    witness = tmp_path / "witness"
    options = [word for text in DEFINITIONS for word in ("-e", text)]
    emitted = run("--emit", "kernel", "--filter", "size > 100", *options[:2], "touch", witness)
    assert emitted.status == 0
    line, comment = emitted.stdout.splitlines()
    assert re.fullmatch(r"p:ptrace_uprobes/malloc /\S+libc\S+:0x[0-9a-f]+ size=%di:u64", line)
    assert comment == "# echo 'size > 100' > events/ptrace_uprobes/malloc/filter"
    emitted = run("--emit", "kernel", *options, "touch", witness)
    assert not witness.exists()
    assert emitted.stderr == ""

    # THEN the kernel accepts them as they are, and says them back
    events = require_tracefs() / "uprobe_events"
    lines = emitted.stdout.splitlines()
    assert len(lines) > len(DEFINITIONS)
    for line in lines:
        _append(events, line)
    try:
        known = [line for line in events.read_text().splitlines() if "ptrace_uprobes/" in line]
    finally:
        for line in lines:
            _append(events, f"-:{line.split()[0].partition(':')[2]}")
    assert len(known) == len(lines)
    for ours, theirs in zip(lines, known, strict=True):
        assert ours.split()[0] == theirs.split()[0]
        # The kernel writes offsets with leading zeros.
        path, offset = ours.split()[1].rsplit(":", 1)
        their_path, their_offset = theirs.split()[1].rsplit(":", 1)
        assert (path, int(offset, 16)) == (their_path, int(their_offset, 16))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("libc:malloc x=%xmm0:f64", "floating-point"),
        ("[vdso]:__vdso_gettimeofday", "is in [vdso], which the kernel cannot probe"),
        ("libc:time", "libc:time resolves into [vdso], which the kernel cannot probe"),
    ],
)
def test_what_the_kernel_cannot_express_is_said_by_name(spec: str, words: str) -> None:
    failed = run("--emit", "kernel", "-e", spec, "true")
    assert failed.status == 1
    assert failed.error.startswith("the kernel cannot have ")
    assert spec in failed.error
    assert words in failed.error
    assert failed.stdout == ""


def test_of_a_glob_the_kernel_gets_what_it_can_have() -> None:
    # `time` is an IFUNC that leads into the vDSO; `timer_create` is not.
    emitted = run("--emit", "kernel", "-e", "libc:time*", "true")
    assert emitted.status == 0
    why = "libc:time resolves into [vdso], which the kernel cannot probe"
    assert f"# {why}" in emitted.stdout.splitlines()
    assert emitted.stderr == f"ptrace-uprobes: warning: {why}\n"
    assert "p:ptrace_uprobes/timer_create" in emitted.stdout


def test_each_argument_is_recorded_and_filtered_under_the_name_that_was_written(
    words: Path,
) -> None:
    # write(FILE, BUFFER, SIZE): were arg2 the second fetcharg, it would be the buffer.
    specs = ("-e", "libc:write arg0:s32 arg2:u64", "-e", "libc:write  $arg1:s32 $arg3:u64")
    probed = run(*specs, "--filter", "arg2 == 6 || arg0 == 9", "--format", "jsonl", "sort", words)
    assert probed.status == 2  # the second has no arg0
    probed = run(*specs[:2], "--filter", "arg2 == 6", "--format", "jsonl", "sort", words)
    (hit,) = records(probed.stderr, "hit")
    assert hit["args"] == {"arg0": 1, "arg2": 6}
    probed = run(*specs[2:], "--filter", "arg3 == 6", "--format", "jsonl", "sort", words)
    (hit,) = records(probed.stderr, "hit")
    assert hit["args"] == {"arg1": 1, "arg3": 6}


def test_a_thread_that_renames_itself_is_shown_under_its_new_name(tmp_path: Path) -> None:
    # GIVEN a program that renames itself between two writes
    source = tmp_path / "renames.c"
    source.write_text(
        "#include <sys/prctl.h>\n#include <unistd.h>\n"
        'int main(void) { write(1, "a", 1); prctl(PR_SET_NAME, "second");'
        ' return write(1, "b", 1) != 1; }\n'
    )
    probed = run("-e", "libc:write", "--", build_target(source, "-Wno-unused-result"))
    names = re.findall(r"^ *(\S+)-\d+ +\[\d{3}\] ", probed.stderr, re.MULTILINE)
    assert names[1] == "second"
    assert names[0] != "second"


def test_the_cpu_of_a_hit_is_the_one_that_the_program_runs_on(tmp_path: Path) -> None:
    # GIVEN a program that goes from CPU to CPU
    source = tmp_path / "wanders.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <sched.h>\n#include <stdio.h>\n"
        'void here(void) { __asm__ volatile(""); }\n'
        "int main(void) { cpu_set_t all, one; sched_getaffinity(0, sizeof all, &all);\n"
        "for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) if (CPU_ISSET(cpu, &all)) {\n"
        " CPU_ZERO(&one); CPU_SET(cpu, &one); sched_setaffinity(0, sizeof one, &one);\n"
        ' here(); printf("%03d\\n", sched_getcpu()); } }\n'
    )
    target = build_target(source, "-fno-inline")
    for colocate in ("off", "on"):
        probed = run("-e", "here", "--colocate", colocate, "--", target)
        cpus = re.findall(r" \[(\d{3})\] \S+ here: ", probed.stderr)
        # THEN the lines say where it was
        assert cpus == probed.stdout.split()


def test_json_of_every_request_is_one_object_a_line(words: Path) -> None:
    probed = run(
        *("-e", "libc:getenv n=+0(%di):string", "--request", "regs,data,stack", "--length", "64"),
        *("--format", "jsonl", "sort", words),
    )
    for line in probed.stderr.splitlines():
        assert json.loads(line)["type"] in ("hit", "summary")
    plain = subprocess.run(["sort", words], capture_output=True, text=True, check=True)
    assert probed.stdout == plain.stdout
