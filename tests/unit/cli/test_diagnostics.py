"""An error is one line, in which positions can be counted."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.cli.diagnostics import error_line
from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.errors import BadFilter, BadSpec, UprobesError

_AT = re.compile(r"bad (?:probe|filter) '(.*)' at character (\d+): ", re.DOTALL)


def _pointed_at(error: UprobesError) -> str:
    """What stands in the printed quotation from the character that the error names."""
    match = _AT.search(str(error))
    assert match is not None, str(error)
    return match[1][int(match[2]) - 1 :]


@pytest.mark.parametrize("blanks", [" ", "   ", "\t", " \t  \t", "\n", "\x0b"])
@pytest.mark.parametrize("before", ["", "a='x", "\\\\", "é\udcff\x1b"])
def test_the_position_counts_what_is_printed(
    blanks: str, before: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadSpec) as bad_spec:
        parse_definition(f'libc:malloc{blanks}s=\\"{before}"{blanks}%foo')
    with pytest.raises(BadFilter) as bad_filter:
        parse_filter(f'a{blanks}== "{before}"{blanks}foo')
    for error, wanted in ((bad_spec.value, "foo"), (bad_filter.value, "foo")):
        # The command prints it so, in one line.
        error_line(str(error))
        printed = capfd.readouterr().err
        assert printed == f"ptrace-uprobes: error: {error}\n"
        assert _pointed_at(error) == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=300) | st.binary(max_size=300).map(os.fsdecode), st.integers(0, 300))
def test_whatever_was_typed_the_rest_from_there_is_what_is_pointed_at(
    text: str, position: int
) -> None:
    position = min(position, len(text))
    for error in (BadSpec(text, position, "why"), BadFilter(text, position, "why")):
        assert str(error).isprintable()
        rest = _pointed_at(error)
        if position < len(text) and text[position].isprintable():
            assert rest.startswith(text[position])


def test_bytes_that_are_no_text_are_shown_as_escapes(capfd: pytest.CaptureFixture[str]) -> None:
    error_line(f"cannot read {os.fsdecode(bytes([0x61, 0xFF]))}: no\n  more\x1b")
    assert capfd.readouterr().err == "ptrace-uprobes: error: cannot read a\\xff: no more\\x1b\n"
