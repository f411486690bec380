"""What the kernel makes of a definition or a filter, we make of it: accepted or refused alike.

The kernel is asked by defining the event, on a file that nobody executes, and removing it.
Where we differ on purpose, the difference is listed here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.cli.kernel_events import kernel_lines
from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.definition.emit import LONGEST_LINE, NotForTheKernel, kernel_line
from ptrace_uprobes.definition.fetcharg_format import format_fetcharg
from ptrace_uprobes.errors import BadFilter, BadSpec
from ptrace_uprobes.fetching.fetcher import compile_fetcher
from ptrace_uprobes.fetching.layout import Layout
from tests.support.oracle import require_tracefs
from tests.unit.definition.fetcharg_strategies import fetchargs, names
from tests.unit.output.fakes import a_plan

_SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

OURS_ONLY = {
    "%rdi": "the name that every other tool has for it",
    "%eax": "the name that every other tool has for it in 32-bit programs",
    "%xmm0": "float arguments",
    "+0(%di):f32": "floats in memory",
    "arg0": "the ABI's arguments",
    "$arg1": "the ABI's arguments; the kernel has it for its own functions",
}
"""Fetchargs that we accept and the kernel refuses."""

KERNEL_ONLY = {
    "+8(%di)x": "it does not look at what follows the ')'",
    "++5(%di)": "a second sign",
    "+-5(%di)": "a second sign",
    "@++5": "a second sign",
    "@+-5": "a second sign",
    "\\+-1": "a second sign",
    "\\1:string[2]": "an array of strings, of a number",
    "$stack4294967296": "it cuts the number to 32 bits",
}
"""Fetchargs that the kernel accepts, as far as we know by mistake, and we refuse."""

ALIKE = [
    fetched
    for row in (
        r"%di %orig_ax %cs %ds %fs %ss %flags %r8 %eax %DI % $ @ \ $stack $stack0 $stackx",
        r"$stack1x $retval $comm $COMM $comm:string $comm:ustring $comm:u8 $comm:string[1]",
        r"$comm:b1@0/8 @0x10 @10 @010 @08 @sym @-5 @+0x10 @18446744073709551615",
        r"@+9223372036854775807 @+9223372036854775808 \1 \-1 \+1 \0x \x",
        r"\18446744073709551615 \18446744073709551616 \-9223372036854775808",
        r'\-9223372036854775809 \1:string \1:ustring \1:u8[2] \1:b1@0/8 \"abc" \"abc \" \""',
        r'\"a:b" \"a=b" x=\"a=b" \"abc":string \"abc":ustring \"abc":u8 \"a#b" +0(%di)',
        r"-8(%di) +u8(%di) -u8(%di) +(%di) --5(%di) +0x(%di) +8(%di +8(%di):u8x +8 +8( +8()",
        r'+8(+8(%di)) +8(+8(%di) +8($comm) +8(\"a") +8(\1) +8(@1) +9223372036854775807(%di)',
        r"+9223372036854775808(%di) -9223372036854775808(%di) +0($stack):u8",
        r"+0($stack0):string %di:u8 %di:u16 %di:s64 %di:x8 %di:char %di:string %di:ustring",
        r"%di:symbol %di:symstr %di:u128 %di: %di:f64 %di:u8[4] +0(%di):u8[0] +0(%di):u8[",
        r"+0(%di):u8[] +0(%di):u8[4 +0(%di):u8[4]x +0(%di):u8[64] +0(%di):u8[65]",
        r"+0(%di):u8[0x10] +0(%di):string[4] +0(%di):ustring[4] @1:string @1:string[2]",
        r"@+1:u8[3] $stack:string $stack0:string $stack0:u8[2] %di:b1@0/8 %di:b0@0/8",
        r"%di:b8@1/8 %di:b3@5/7 %di:b3@5 %di:b3 %di:b %di:b3@/8 %di:b0x3@010/0x20",
        r"%di:b3@5/32[2] +0(%di):b3@5/32[2] %di:b64@0/64 %di:b3@5/64x %ax:u8:u8 a=%di 1a=%di",
        r"a-b=%di =%di a= common_pid=%di common_tgid=%di common_flags=%di common_type=%di",
        r"common_preempt_count=%di __probe_ip=%di __probe_func=%di __probe_ret_ip=%di",
        r"comm=%di ip=%di foo &x a=%di#x +0(%xmm0)",
    )
    for fetched in row.split()
]
_DEEP = [
    f"{'+0(' * depth}{base}{')' * depth}{suffix}"
    for depth in (11, 12, 13, 14, 15)
    for base in ("%di", "@1")
    for suffix in ("", ":b1@0/8", ":b1@0/8[2]", ":string", ":string[2]")
]
_LONG = [
    "a" * 32 + "=%di",
    "a" * 33 + "=%di",
    'a=\\"' + "x" * 60 + '"',
    'a=\\"' + "x" * 61 + '"',
    "a=%di a=%si",
    "arg2=%di %si",
    " ".join(f"a{number}=%di" for number in range(128)),
    " ".join(f"a{number}=%di" for number in range(129)),
]
IN_RETURN_PROBES = [
    "$retval",
    "$retval:string",
    "+0($retval):string",
    "$retval:u8[2]",
    "%di",
    "$stack0",
    "$retval:s32",
]
HEADS = [
    "p:{group}/e {file}:0x10",
    "r:{group}/e {file}:0x10",
    "p:{group}/e {file}:0x10%return",
    "r:{group}/e {file}:0x10%return",
    "p:{group}/e {file}:0x10%ret",
    "p:{group}/e {file}:0x10(0x20)",
    "p:{group}/e {file}:0x10%return(0x20)",
    "p:{group}/e {file}:0x10(0x20)%return",
    "p:{group}/e {file}:0x10(32",
    "p:{group}/e {file}:0x10()",
    "p:{group}/e {file}:0x10(x)",
    "p:{group}/e {file}:0x10(1)x",
    "p:{group}/e {file}:010",
    "p:{group}/e {file}:08",
    "p:{group}/e {file}:16",
    "p:{group}/e {file}:-1",
    "p:{group}/e {file}:+1",
    "p:{group}/e {file}:",
    "p:{group}/e {file}",
    "p:{group}/e {file}:0x40000000000000000",
    "p:{group}/e {file}:0xffffffffffffffff",
    "p:{group}/ {file}:0x10",
    "p:{group}.e {file}:0x10",
    "p:{group}-x/e {file}:0x10",
    "p:{group}/a/b {file}:0x10",
    "p:{group}/1a {file}:0x10",
    "p:1{group}/a {file}:0x10",
    "p:/e {file}:0x10",
    "p: {file}:0x10",
    "p {file}:0x10",
    "r {file}:0x10",
    "p:{group}_only {file}:0x10",
    "p:{group}/" + "a" * 63 + " {file}:0x10",
    "p:{group}/" + "a" * 64 + " {file}:0x10",
    "p:" + "a" * 63 + "/e {file}:0x10",
    "p:" + "a" * 64 + "/e {file}:0x10",
    "  p:{group}/e \t {file}:0x10   a=%di ",
    "p:{group}/e {file}:0x10 # why",
    "x:{group}/e {file}:0x10",
    "P:{group}/e {file}:0x10",
]


class _Kernel:
    """Asks the kernel about definitions, and takes back what it accepts."""

    def __init__(self, tracefs: Path, file: Path) -> None:
        self.tracefs = tracefs
        self.file = file
        self.group = f"ptug_{os.getpid()}"

    def _write(self, where: str, text: str) -> bool:
        # O_TRUNC would remove the probes of others.
        descriptor = os.open(self.tracefs / where, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, os.fsencode(text + "\n"))
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def define(self, line: str) -> bool:
        return self._write("uprobe_events", line)

    def accepts(self, line: str) -> bool:
        accepted = self.define(line)
        if accepted:
            assert self.clear(), line
        return accepted

    def listed(self) -> list[str]:
        """What is defined on our file, as the kernel says it."""
        lines = (self.tracefs / "uprobe_events").read_text().split("\n")
        return [line for line in lines if f" {self.file}:" in line]

    def clear(self) -> int:
        """Remove what is defined on our file; the result is how many there were."""
        lines = self.listed()
        for event in dict.fromkeys(line.split()[0][1:] for line in lines):
            assert self._write("uprobe_events", f"-{event}"), event
        return len(lines)

    def accepts_filter(self, text: str) -> bool:
        return self._write(f"events/{self.group}/e/filter", text)

    def line(self, fetched: str, kind: str = "p") -> str:
        return f"{kind}:{self.group}/e {self.file}:0x10 {fetched}"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[_Kernel]:
    tracefs = require_tracefs()
    file = tmp_path / "nobody_runs_this"
    file.write_bytes(bytes(4096))
    asked = _Kernel(tracefs, file)
    try:
        yield asked
    finally:
        asked.clear()


HEADS_OF_THE_KERNEL = ("p1:{group}/e {file}:0x10", "pfoo {file}:0x10", "r{group} {file}:0x10")
"""It looks at the first letter only, and forgets the event's name too."""


def _we_accept(line: str) -> bool:
    try:
        parse_definition(line)
    except BadSpec:
        return False
    return True


@pytest.mark.parametrize("head", HEADS)
def test_the_place_is_accepted_or_refused_alike(kernel: _Kernel, head: str) -> None:
    line = head.format(group=kernel.group, file=kernel.file)
    assert _we_accept(line) == kernel.accepts(line)


def test_fetchargs_are_accepted_or_refused_alike(kernel: _Kernel) -> None:
    differing = [
        fetched
        for fetched in [*ALIKE, *_DEEP, *_LONG]
        if fetched not in OURS_ONLY
        if _we_accept(kernel.line(fetched)) != kernel.accepts(kernel.line(fetched))
    ]
    assert differing == []


def test_fetchargs_of_return_probes_are_accepted_or_refused_alike(kernel: _Kernel) -> None:
    lines = [kernel.line(fetched, "r") for fetched in IN_RETURN_PROBES]
    assert [_we_accept(line) for line in lines] == [kernel.accepts(line) for line in lines]


def test_the_differences_are_those_that_are_listed(kernel: _Kernel) -> None:
    for fetched, why in OURS_ONLY.items():
        line = kernel.line(fetched)
        assert (_we_accept(line), kernel.accepts(line)) == (True, False), why
    for fetched, why in KERNEL_ONLY.items():
        line = kernel.line(fetched)
        assert (_we_accept(line), kernel.accepts(line)) == (False, True), why


def test_the_differences_between_places_are_those_that_are_listed(kernel: _Kernel) -> None:
    for head in HEADS_OF_THE_KERNEL:
        line = head.format(group=kernel.group, file=kernel.file)
        assert (_we_accept(line), kernel.accepts(line)) == (False, True), line
    line = kernel.line("$retvalx", "r")
    assert (_we_accept(line), kernel.accepts(line)) == (False, True)


@_SLOW
@given(data=st.data(), is_return=st.booleans())
def test_every_fetcharg_that_we_can_say_the_kernel_understands(
    kernel: _Kernel, data: st.DataObject, is_return: bool
) -> None:
    chosen = data.draw(st.lists(names, min_size=1, max_size=8, unique=True))
    texts = [
        format_fetcharg(data.draw(fetchargs(is_return=is_return, extensions=False, name=name)))
        for name in chosen
    ]
    line = kernel.line(" ".join(texts), "r" if is_return else "p")
    accepted = kernel.define(line)
    listed = kernel.listed()
    kernel.clear()
    assert _we_accept(line) == accepted
    if accepted:
        # What the kernel says of its events is a definition to us, and the same one.
        assert [parse_definition(line).fetchargs] == [parse_definition(x).fetchargs for x in listed]


_pieces = st.sampled_from(
    [
        *'%$@+-\\"()[]:=/9a',
        *("%di", "$stack", "$comm", "@0x10", "\\1", "+8(", "-u8(", "stack", "u8", ":u8", ":string"),
        *(":b3@5/32", "[4]", "0x1", "08", "a=", "common_pid=", ":symbol", " "),
    ]
)


@_SLOW
@given(fetched=st.lists(_pieces, min_size=1, max_size=8).map("".join))
def test_what_the_kernel_refuses_we_refuse(kernel: _Kernel, fetched: str) -> None:
    line = kernel.line(fetched)
    assert not _we_accept(line) or kernel.accepts(line)


@_SLOW
@given(data=st.data(), event=st.text(max_size=80), group=st.text(max_size=80))
def test_the_kernel_takes_every_line_that_we_emit(
    kernel: _Kernel, data: st.DataObject, event: str, group: str
) -> None:
    fetched = format_fetcharg(data.draw(fetchargs(name="a")))
    assume(len(fetched) <= 65)
    definition = parse_definition(f"main {fetched}")
    try:
        line = kernel_line(definition, str(kernel.file), 0x10, event=event, group=f"x{group}")
    except NotForTheKernel:
        return
    assert kernel.accepts(line)


_CHOICES = st.tuples(
    st.sampled_from(("p", "r")),
    st.sampled_from((":{0}/a", ":{0}/b", ":ptrace_uprobes/{0}", None)),
    st.sampled_from((0x10, 0x20)),
    st.sampled_from(("", "", "(0x30)")),
    st.sampled_from(("", "x=%di", "x=%si", "x=%di:u8", "x=%di:b3@1/8", "x=%di y=%si")),
)


@_SLOW
@given(chosen=st.lists(_CHOICES, min_size=1, max_size=4))
def test_what_we_emit_the_kernel_takes_together_and_what_we_refuse_it_refuses(
    kernel: _Kernel, chosen: list[tuple[str, str | None, int, str, str]]
) -> None:
    # Names, fetchargs, semaphores and places of several events: how they get on.
    plans, naive = [], []
    for kind, name, offset, reference, fetched in chosen:
        named = "" if name is None else name.format(kernel.group)
        spec = f"{kind}{named} {kernel.file}:{offset:#x}{reference} {fetched}"
        file = str(kernel.file)
        plans.append(a_plan(spec=spec, label=kernel.group, module=file, file_offset=offset))
        if spec not in naive:
            naive.append(spec)
    try:
        lines = list(kernel_lines(plans))
    except NotForTheKernel:
        assert not all(map(kernel.define, naive)), naive
    else:
        assert all(map(kernel.define, lines)), lines
    finally:
        kernel.clear()


def test_the_longest_line_that_we_emit_is_the_kernels(kernel: _Kernel) -> None:
    line = f"p:{kernel.group}/e {kernel.file}:0x10"
    number = 0
    while len(line) < LONGEST_LINE - 60:
        number += 1
        line += f" a{number}=+0(+0(+0(+0(+0(+0(%di))))))"
    line += " b=%di" + " " * (LONGEST_LINE - len(line) - 6)
    assert len(line) == LONGEST_LINE
    assert kernel.accepts(line)
    assert not kernel.accepts(f"{line} ")


FILTERS = [
    *("a==1", "a == 0x10", "a==010", "a==08", "s==-1", "s==+1", "a == 0X10", "a==0b1", "a==1u"),
    *("a==18446744073709551615", "a==18446744073709551616", "a==--1", "a==- 1", "a==1e3x"),
    *('t=="x"', "t==x", 't == "x y"', "t=='x'", 't~"x*"', "t~x*", "a~1", 't<"x"', 't&"x"', 't==""'),
    *('t=="', 't=="a\\"b"', 't~"[a-z]?"', 't=="x"y', "t=='a\"b'", 't=="a&&b"', 't!="x"'),
    *("a&1", "a & 1 == 1", "a&&s==1", "a", "!a", "!a==1", "!(a==1)", "!!(a==1)", "! a == 1"),
    *('a==1&&s==2||t=="x"', "(a==1", "a==1)", "()", "", "  ", "a=1", "a===1", "a<>1", "a=<1"),
    *("&& a==1", "a==1 & s==1", "a==1 s==1", "a==1 || || s==1", "a==1#", "(((a==1)))", "1==a"),
    *('"x"==t', "a>=1", "a<=1", "a>1", "a<1", "s&-1", "a==1;", "a!=1", "a!==1", "a ! = 1"),
    *("a==1)(", "a==1()", "a==0x", "a==1 (", "a==1x", 'comm=="sh"', "common_pid==1"),
    *('t=="' + "x" * 255 + '"', 't=="' + "x" * 256 + '"', "(" * 31 + "a==1" + ")" * 31),
    " || ".join(["a==1"] * 100),
]
FILTERS_OF_OURS = ("a==1.5", "a==1e3")
"""For fields that are floats, which the kernel has not."""
FILTERS_OF_THE_KERNEL = (
    "cpu & CPUS{0-1}",
    "a==1 &&",
    "0",
    't.ustring=="x"',
    "(" * 33 + "a==1" + ")" * 33,
)
"""Sets of processors; a forgotten end; how a filter is removed; user space, where all of ours is;
our bound."""


@pytest.fixture
def filtered(kernel: _Kernel) -> _Kernel:
    assert kernel.define(kernel.line("a=%di s=%si:s32 t=+0(%di):string"))
    return kernel


def _we_accept_filter(text: str) -> bool:
    try:
        parse_filter(text)
    except BadFilter:
        return False
    return True


def test_filters_are_accepted_or_refused_alike(filtered: _Kernel) -> None:
    differing = [
        text for text in FILTERS if _we_accept_filter(text) != filtered.accepts_filter(text)
    ]
    assert differing == []


FIELDS_OF_THE_KERNEL = ("common_type", "common_flags", "common_preempt_count")
FIELDS_OF_OURS = ("pid", "tid")
FIELDS_OF_BOTH = ("common_pid", "comm", "COMM", "cpu", "CPU", "__probe_ip")


def test_the_fields_of_every_hit_differ_as_is_listed(filtered: _Kernel) -> None:
    fetched = parse_definition(filtered.line("a=%di s=%si:s32 t=+0(%di):string")).fetchargs

    def we_take(text: str) -> bool:
        try:
            compile_fetcher(fetched, parse_filter(text), is_return=False, layout=Layout())
        except BadFilter:
            return False
        return True

    for fields, answers in (
        (FIELDS_OF_THE_KERNEL, (False, True)),
        (FIELDS_OF_OURS, (True, False)),
        (FIELDS_OF_BOTH, (True, True)),
    ):
        for field in fields:
            text = f"{field} == " + ('"sh"' if field.lower() == "comm" else "1")
            assert (we_take(text), filtered.accepts_filter(text)) == answers, text


def test_the_differences_between_filters_are_those_that_are_listed(filtered: _Kernel) -> None:
    for text in FILTERS_OF_OURS:
        assert (_we_accept_filter(text), filtered.accepts_filter(text)) == (True, False), text
    for text in FILTERS_OF_THE_KERNEL:
        assert (_we_accept_filter(text), filtered.accepts_filter(text)) == (False, True), text


_filter_pieces = st.sampled_from(
    ["a==1", "s<-2", 't=="x"', 't~"x*"', "&&", "||", "!", "(", ")", "&"]
)


@_SLOW
@given(text=st.lists(_filter_pieces, min_size=1, max_size=9).map(" ".join))
def test_a_filter_that_the_kernel_refuses_we_refuse(filtered: _Kernel, text: str) -> None:
    assert not _we_accept_filter(text) or filtered.accepts_filter(text)
