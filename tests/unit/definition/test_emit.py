"""What we were asked for, said to the kernel; what it cannot have is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.definition.emit import NotForTheKernel, kernel_line


def _line(text: str, path: str = "/bin/sort", event: str = "e") -> str:
    return kernel_line(parse_definition(text), path, 0x1234, event=event)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("main", "p:uprobes/e /bin/sort:0x1234"),
        ("main%return $retval", "r:uprobes/e /bin/sort:0x1234 arg1=$retval"),
        ("main size=arg0:u64", "p:uprobes/e /bin/sort:0x1234 size=%di:u64"),
        ("main %rsi +8(arg3):s32", "p:uprobes/e /bin/sort:0x1234 arg1=%si arg2=+8(%cx):s32"),
        ("p:g-1/f /bin/x:5(0x10)", "p:g-1/f /bin/sort:0x1234(0x10)"),
    ],
)
def test_a_definition_becomes_a_line(text: str, line: str) -> None:
    assert _line(text) == line


@pytest.mark.parametrize(
    ("text", "path", "why"),
    [
        ("main %xmm0", "/bin/sort", "floating-point"),
        ("main a=+0(%di):f32", "/bin/sort", "a is a floating-point"),
        ("main arg6", "/bin/sort", r"\$stack1"),
        ('main a=\\"#"', "/bin/sort", "a string holds"),
        ("main", "/bin/my sort", "the path holds"),
        ("main", "/bin/à", "the path holds"),
        ("main", "sort", "no path"),
    ],
)
def test_what_the_kernel_cannot_have_is_named(text: str, path: str, why: str) -> None:
    with pytest.raises(NotForTheKernel, match=why):
        _line(text, path)


@given(st.text(max_size=100))
def test_every_event_gets_a_name_that_the_kernel_takes(event: str) -> None:
    line = _line("main", event=event)
    assert parse_definition(line).event
