"""What the command line means, and what it does not accept."""

from __future__ import annotations

import pytest

from ptrace_uprobes.cli.options import HandlerReference, Options, parse
from ptrace_uprobes.errors import UsageError


def options(*arguments: str) -> Options:
    parsed = parse(arguments)
    assert parsed is not None
    return parsed


def test_everything_after_the_two_dashes_is_the_commands_own() -> None:
    parsed = options("-e", "f", "--", "sort", "-o", "x", "--count", "--", "-e", "--help")
    assert parsed.command == ("sort", "-o", "x", "--count", "--", "-e", "--help")
    assert parsed.specs == ("f",)
    assert parsed.output is None
    assert not parsed.count


def test_without_dashes_the_options_end_at_the_command() -> None:
    parsed = options("-e", "f", "sort", "-o", "x", "--", "y")
    assert parsed.command == ("sort", "-o", "x", "--", "y")
    assert parsed.output is None


def test_a_command_whose_name_begins_with_a_dash_can_be_run() -> None:
    assert options("-e", "f", "--", "-odd", "").command == ("-odd", "")


def test_pids_and_probes_may_be_repeated_and_keep_their_order() -> None:
    parsed = options("-p", "7", "--pid", "3", "-p", "7", "-e", "b", "--probe=a", "-e", "b")
    assert parsed.pids == (7, 3)
    assert parsed.specs == ("b", "a")


def test_the_defaults_are_text_to_standard_error_and_auto() -> None:
    assert options("-p", "1", "-e", "f") == Options(
        pids=(1,),
        command=(),
        specs=("f",),
        handler=None,
        follow_forks=False,
        output=None,
        format="text",
        count=False,
        max_hits=None,
        duration=None,
        mechanism="auto",
        colocate="auto",
        explain=False,
    )


def test_every_option_is_understood() -> None:
    parsed = options(
        *("-p", "1", "-e", "f", "--handler", "a:b.py:on_hit", "-f", "-o", "x"),
        *("--format", "jsonl", "--count", "--max-hits", "3", "--duration", "0.5"),
        *("--mechanism", "step", "--colocate", "on", "--explain"),
    )
    assert parsed == Options(
        pids=(1,),
        command=(),
        specs=("f",),
        handler=HandlerReference("a:b.py", "on_hit"),
        follow_forks=True,
        output="x",
        format="jsonl",
        count=True,
        max_hits=3,
        duration=0.5,
        mechanism="step",
        colocate="on",
        explain=True,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to probe"),
        (("-e", "f"), "nothing to probe"),
        (("-e", "f", "--"), "nothing to probe"),
        (("-p", "1"), "no probe"),
        (("sort",), "no probe"),
        (("-p", "1", "-e", "f", "sort"), "not both"),
        (("-p", "0", "-e", "f"), "--pid"),
        (("-p", "-1", "-e", "f"), "--pid"),
        (("-p", "one", "-e", "f"), "--pid"),
        (("-p", "1", "-e"), "-e"),
        (("-p", "1", "-e", "f", "--max-hits", "0"), "--max-hits"),
        (("-p", "1", "-e", "f", "--duration", "0"), "--duration"),
        (("-p", "1", "-e", "f", "--duration", "-1"), "--duration"),
        (("-p", "1", "-e", "f", "--duration", "nan"), "--duration"),
        (("-p", "1", "-e", "f", "--duration", "inf"), "--duration"),
        (("-p", "1", "-e", "f", "--mechanism", "magic"), "--mechanism"),
        (("-p", "1", "-e", "f", "--colocate", "maybe"), "--colocate"),
        (("-p", "1", "-e", "f", "--format", "xml"), "--format"),
        (("-p", "1", "-e", "f", "--handler", "file.py"), "FILE.py:FUNCTION"),
        (("-p", "1", "-e", "f", "--handler", ":f"), "FILE.py:FUNCTION"),
        (("-p", "1", "-e", "f", "--handler", "file.py:no-name"), "FILE.py:FUNCTION"),
        (("-p", "1", "-e", "f", "--frobnicate"), "--frobnicate"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    assert words in str(caught.value)
    assert caught.value.exit_status == 2


def test_help_and_version_are_answered_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--help"]) is None
    text = capsys.readouterr().out
    assert text.startswith("Usage: ptrace-uprobes [OPTIONS] (--pid PID | -- COMMAND [ARGUMENT...])")
    assert "--colocate" in text
    assert parse(["--version"]) is None
    assert capsys.readouterr().out.startswith("ptrace-uprobes 0.")
