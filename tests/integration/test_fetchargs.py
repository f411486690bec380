"""Fetchargs and filters in live programs, against the program's own words and the kernel's."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes import errors
from ptrace_uprobes.fetching.value import FAULT
from tests.support.build import build_target
from tests.support.elf_tools import file_offset, functions
from tests.support.oracle import require_tracefs
from tests.support.probed import fixed_layout, run_plain

PRINTED = (
    "p=%di word=+0(%di) negative=+8(%di):s32 bits=+12(%di):u32 field=+12(%di):b5@3/32 "
    "letter=+16(%di):char text=+17(%di):string s=+0(%si):string first=+0(+32(%di)):string "
    "names=+32(%di):string[3] next=+0(+56(%di)):s64 halves=+64(%di):x16[4] low=%dx:s8 n=%dx:s64"
)
OURS = "x=%xmm0:f64 single=+72(%di):f32 real=+80(%di):f64 seventh=arg6:s64 eighth=arg7:s64"
CALLS, BAD_CALLS = 12, 6


def _program(folder: Path) -> Path:
    # A copy: the kernel's probes belong to the inode.
    return Path(shutil.copy(build_target("fetchargs.c", "-no-pie"), folder / "fetchargs"))


def _definition(program: Path, definition: str, *, event: str = "g/e") -> str:
    """A line of uprobe_events for `p FETCHARGS` or `r FETCHARGS`."""
    kind, _, arguments = definition.partition(" ")
    offset = file_offset(program, functions(program)["probed"].address)
    return f"{kind}:{event} {program}:{offset:#x} {arguments}"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one probe recorded of a run: text and values, one each hit."""

    lines: list[str]
    values: list[dict[str, object]]
    filtered: int


def _record(
    program: Path, definitions: Sequence[str], filters: Sequence[str | None] = (None,)
) -> list[Recorded]:
    """One run with a probe of ours for each definition and each filter."""
    probes = []
    records = []
    with open(os.devnull, "wb") as nowhere, fixed_layout():
        kept = os.dup(1)
        os.dup2(nowhere.fileno(), 1)
        try:
            engine = pu.launch([str(program)])
        finally:
            os.dup2(kept, 1)
            os.close(kept)
    with engine:
        for definition in definitions:
            for filter_text in filters:
                lines: list[str] = []
                values: list[dict[str, object]] = []

                def note(
                    hit: pu.Hit,
                    lines: list[str] = lines,
                    values: list[dict[str, object]] = values,
                ) -> None:
                    assert hit.fetcher is not None
                    lines.append(_as_programs_write(hit.fetcher.as_text(hit.values)))
                    values.append(dict(hit.args))

                records.append((lines, values))
                probes.append(engine.probe(definition, note, filter=filter_text))
        result = engine.run(timeout=60)
    assert result.exit_status == 0
    assert not any(probe.handler_errors for probe in probes)
    assert [probe.hits for probe in probes] == [len(lines) for lines, _ in records]
    return [
        Recorded(lines, values, probe.filtered)
        for (lines, values), probe in zip(records, probes, strict=True)
    ]


def _as_programs_write(text: str) -> str:
    """A line of ours without what tells quotes within strings from those around them."""
    return re.sub(r"\\([\\\"'])", r"\1", text)


def _write(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, os.fsencode(line + "\n"))
    finally:
        os.close(descriptor)


def _kernel(
    program: Path, definitions: Sequence[str], filters: Sequence[str | None] = (None,)
) -> list[list[str]]:
    """What the kernel's own probes record, in the order of `_record`."""
    tracefs = require_tracefs()
    group = f"ptu_fetch_{os.getpid()}"
    instance = tracefs / "instances" / group
    wanted = [(definition, text) for definition in definitions for text in filters]
    with contextlib.ExitStack() as undo:
        for number, (definition, _) in enumerate(wanted):
            line = _definition(program, definition, event=f"{group}/e{number}")
            _write(tracefs / "uprobe_events", line)
            undo.callback(_write, tracefs / "uprobe_events", f"-:{group}/e{number}")
        instance.mkdir()
        undo.callback(instance.rmdir)
        events = instance / "events" / group
        for number, (_, text) in enumerate(wanted):
            if text is not None:
                _write(events / f"e{number}" / "filter", text)
        (events / "enable").write_text("1")
        undo.callback((events / "enable").write_text, "0")
        run_plain([program])
        trace = (instance / "trace").read_bytes().decode("utf-8", "surrogateescape")
    # fetchargs-123 [000] .... 12.345678: e0: (0x401166) a=0x1
    found = re.findall(r"^ *fetchargs-\d+ .*?: e(\d+): \([^)]*\) (.*)$", trace, re.MULTILINE)
    return [[line for at, line in found if int(at) == number] for number in range(len(wanted))]


def test_what_is_recorded_is_what_the_program_printed_of_itself(tmp_path: Path) -> None:
    # GIVEN a program that prints its own values, and probes that fetch them
    program = _program(tmp_path)
    printed = run_plain([program]).stdout.decode("utf-8", "surrogateescape").splitlines()
    own = [line for line in printed if not line.startswith("ours: ")]
    floats = [line.removeprefix("ours: ") for line in printed if line.startswith("ours: ")]
    assert len(own) == len(floats) == CALLS

    # WHEN it runs under them
    words, ours = _record(
        program, [_definition(program, f"p {PRINTED}"), f"{program}:probed {OURS}"]
    )

    # THEN each line is the program's
    assert words.lines[:CALLS] == own
    # AND so are float registers, floats in memory, and arguments on the stack
    for line, values in zip(floats, ours.values, strict=False):
        for pair in line.split():
            name, _, text = pair.partition("=")
            assert values[name] == pytest.approx(float(text), rel=1e-7, abs=0)


def test_the_streams_are_the_kernels_line_by_line(tmp_path: Path) -> None:
    # GIVEN definitions with every form and type of fetcharg that the kernel has. (Of addresses
    # that mmap gave only the lowest bits: a kernel return probe moves the program's mappings.
    # Of the function not its first byte: the kernel shows its trap.)
    program = _program(tmp_path)
    symbols = {name: symbol.address for name, symbol in functions(program).items()}
    code = file_offset(program, symbols["probed"])
    definitions = [
        "p %di %si:x8 %dx:u16 %cx:s8 %ax:x8 %sp %bp %ip %cs %ss %r8 %r15 %orig_ax:s64",
        "p $stack $stack0 a=$stack1:s32 b=$stack2:s64 c=+8($stack):s64[2] d=+0($stack0):x8",
        r"p a=\5 b=\-1 c=\0x10:s8 d=\-1:u16 e=\-1:b4@4/8 $comm c2=$comm:string",
        "p a=%dx:b4@0/8 b=%dx:b64@0/64 c=%dx:b1@31/32 d=%dx:b7@9/16 e=%dx:char f=%dx:u64",
        f"p a=@{symbols['probed'] + 1:#x}:x32 b=@{symbols['main']:#x}:u8[16] c=-1($stack0):x8",
        f"p a=@+{code + 16:#x}:x8[16] b=@+0:x8[4] c=@+1:string d=+u0($stack):x64",
        "p n=%dx s=+0(%si):string",
        "p n=%dx s=+0(%si):ustring u=+u0(%si):string",
        "r $retval a=$retval:s64 b=$retval:u8 c=$retval:s32 $stack:x64 %ax:s16 $comm",
        f"p {PRINTED}",
    ]

    # WHEN the kernel records the program by them, and we do
    kernel = _kernel(program, definitions)
    ours = _record(program, [_definition(program, line) for line in definitions])

    # THEN the lines are the same
    for definition, theirs, mine in zip(definitions[:-1], kernel, ours, strict=False):
        assert len(theirs) == CALLS + BAD_CALLS, definition
        assert mine.lines == theirs, definition
    # AND so they are for numbers in memory, where it can be read (the kernel gives 0 elsewhere)
    assert ours[-1].lines[:CALLS] == kernel[-1][:CALLS]


def test_an_offset_in_the_file_is_from_where_its_first_byte_is_mapped(tmp_path: Path) -> None:
    # GIVEN the writable segment of a program, which is mapped elsewhere than its bytes in the
    # file would have it
    program = _program(tmp_path)
    headers = subprocess.run(
        ["readelf", "-lW", program], check=True, capture_output=True, text=True
    )
    loads = [line.split() for line in headers.stdout.splitlines() if line.split()[:1] == ["LOAD"]]
    base = int(loads[0][2], 16)
    offset, address = next(
        (int(words[1], 16), int(words[2], 16)) for words in loads if words[-2] == "RW"
    )
    assert address != base + offset

    # WHEN it is asked for by its address less the program's first
    line = f"p data=@+{address - base:#x}:x8[8]"
    (kernel,) = _kernel(program, [line])
    (ours,) = _record(program, [_definition(program, line)])

    # THEN it is that, for the kernel and for us, and not the file's byte of that number
    assert ours.lines == kernel
    content = program.read_bytes()
    found = ours.values[0]["data"]
    assert found == tuple(content[offset : offset + 8])
    assert found != tuple(content[address - base : address - base + 8])


def test_what_cannot_be_read_is_a_fault_and_the_hit_is_kept(tmp_path: Path) -> None:
    program = _program(tmp_path)
    arguments = (
        "p n=%dx:s64 a=+0(%di):u32 b=+0(+0(%di)) c=+0(%di):u8[2] d=+32(%di):string[2] "
        "e=+0(%si):string"
    )
    (recorded,) = _record(program, [_definition(program, arguments)])
    for number in range(BAD_CALLS):
        expected = "a=(fault) b=(fault) c={(fault),(fault)} d={(fault),(fault)} e=(fault)"
        assert recorded.lines[CALLS + number] == f"n={1000 + number} {expected}"
        assert recorded.values[CALLS + number]["a"] is FAULT


def test_filters_let_through_what_the_kernels_do(tmp_path: Path) -> None:
    # GIVEN fields and filters on them
    program = _program(tmp_path)
    fields = "p n=%dx:s64 u=%dx:u64 low=%dx:u8 s=+0(%si):string"
    filters = [
        "n > 100",
        "n < 0",
        "n < 0 && u & 1",
        "low == 156",
        'low == 0x19c || s == "h" && n < 1000',
        's ~ "h*" && n < 1000',
        's ~ "*l*" && !(n > 999) && comm == "fetchargs"',
        's != "" && n < 1000',
        's ~ "!h*" && n < 1000',
        's ~ "[!a-h]*" && n < 1000',
        'comm ~ "fetch?rg*" && common_pid > 0 && n >= -26',
        "__probe_ip > 0x400000 && u < 0x8000000000000000",
        '!(s == "hello" || s == "") && n < 1000',
        "(n > 0 && n < 200 || n == -100) && cpu < 4096",
    ]

    # WHEN the kernel's probes have them, and ours
    kernel = _kernel(program, [fields], filters)
    ours = _record(program, [_definition(program, fields)], filters)

    # THEN the same hits are recorded, and the others are counted as filtered
    for filter_text, theirs, mine in zip(filters, kernel, ours, strict=True):
        assert mine.lines == theirs, filter_text
        assert mine.lines, filter_text
        assert len(mine.lines) + mine.filtered == CALLS + BAD_CALLS


def test_a_filter_on_a_field_that_is_not_recorded_is_refused_when_planted(tmp_path: Path) -> None:
    program = _program(tmp_path)
    with pu.launch([str(program)]) as engine:
        with pytest.raises(errors.BadFilter) as refusal:
            engine.probe(_definition(program, "p n=%dx"), filter="n > 1 && size == 3")
        assert refusal.value.position == 9
        engine.run(timeout=60)
