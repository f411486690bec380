"""Definitions and filters are read, and fitted to each other, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptrace_uprobes.cli.arguments import parse
from ptrace_uprobes.cli.probe_list import WantedProbe, wanted_probes
from ptrace_uprobes.errors import UsageError


def _wanted(*arguments: str) -> list[WantedProbe]:
    options = parse([*arguments, "true"])
    assert options is not None
    return wanted_probes(options)


def test_a_filter_that_does_not_fit_names_the_probe() -> None:
    specs = ("-e", "libc:malloc size=%di", "-e", "later:free  block=%di")
    with pytest.raises(UsageError, match=r"^later:free  block=%di: bad filter 'size > 1' at char"):
        _wanted(*specs, "--filter", "size > 1")


def test_a_filter_that_does_not_fit_names_the_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "probes"
    file.write_text("libc:malloc size=%di\n\nlibc:free block=%di  # why\n")
    words = f"^{file}:3: libc:free block=%di: bad filter 'size > 1' at character 1: there is no"
    with pytest.raises(UsageError, match=words) as caught:
        _wanted("-e", f"@{file}", "--filter", "size > 1")
    assert caught.value.exit_status == 2


def test_a_very_long_definition_is_cut_in_the_error() -> None:
    with pytest.raises(UsageError, match=r"^f %di .{50,60}\.\.\.: bad filter"):
        _wanted("-e", "f" + " %di" * 100, "--filter", "size > 1")


@pytest.mark.parametrize("other", ["f  ", "f\t", " f", "f"])
def test_definitions_that_differ_by_blanks_around_them_are_one(other: str) -> None:
    assert [one.definition.text for one in _wanted("-e", "f", "-e", other)] == ["f"]


def test_the_same_definition_with_two_filters_is_two() -> None:
    arguments = ("-e", "f", "--filter", "tid == 1", "-e", "f ", "--filter", "tid == 2")
    assert len(_wanted(*arguments)) == 2
