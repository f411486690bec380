"""What the command line means, and what it does not accept."""

from __future__ import annotations

import pytest

from ptrace_uprobes.cli.arguments import parse
from ptrace_uprobes.cli.options import HandlerReference, Options, ProbeOption
from ptrace_uprobes.errors import UsageError
from ptrace_uprobes.output.request import NOTHING, Request


def options(*arguments: str) -> Options:
    parsed = parse(arguments)
    assert parsed is not None
    return parsed


def test_everything_after_the_two_dashes_is_the_commands_own() -> None:
    parsed = options("-e", "f", "--", "sort", "-o", "x", "--count", "--", "-e", "--help")
    assert parsed.command == ("sort", "-o", "x", "--count", "--", "-e", "--help")
    assert parsed.probes == (ProbeOption("f"),)
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
    assert parsed.probes == (ProbeOption("b"), ProbeOption("a"))


def test_the_defaults_are_text_to_standard_error_and_auto() -> None:
    assert options("-p", "1", "-e", "f") == Options(
        pids=(1,),
        command=(),
        probes=(ProbeOption("f"),),
        request=NOTHING,
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
        emit=None,
        trace_marker=False,
        trace_instance=None,
        merge=None,
        hits_file=None,
    )


def test_every_option_is_understood() -> None:
    parsed = options(
        *("-p", "1", "-e", "f", "--handler", "a:b.py:on_hit", "-f", "-o", "x"),
        *("--format", "jsonl", "--count", "--max-hits", "3", "--duration", "0.5"),
        *("--mechanism", "step", "--colocate", "on", "--explain"),
        *("--filter", "a > 3", "--request", "regs, data,stack", "--length", "8"),
        *("--trace-marker", "--trace-instance", "mine"),
    )
    assert parsed == Options(
        pids=(1,),
        command=(),
        probes=(ProbeOption("f", "a > 3"),),
        request=Request(regs=True, data_length=8, stack=True),
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
        emit=None,
        trace_marker=True,
        trace_instance="mine",
        merge=None,
        hits_file=None,
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
        (("-p", "1", "-e", "f", "--request", "regs,stackk"), "'stackk'"),
        (("-p", "1", "-e", "f", "--request", ""), "''"),
        (("-p", "1", "-e", "f", "--request", "data"), "--length N"),
        (("-p", "1", "-e", "f", "--length", "8"), "--request data"),
        (("-p", "1", "-e", "f", "--request", "data", "--length", "0"), "--length"),
        (("-p", "1", "-e", "f", "--request", "data", "--length", "65537"), "65536"),
        (("-p", "1", "-e", "f", "--emit", "perf"), "--emit"),
        (("-p", "1", "-e", "f", "--emit", "kernel", "--explain"), "not both"),
        (("-p", "1", "-e", "f", "--trace-instance", "x"), "--trace-marker"),
        (("-p", "1", "--filter", "x"), "belongs to no probe"),
        (("-p", "1", "-e", "f", "--filter", "x", "--filter", "y"), "'y' belongs to no probe"),
        (("-p", "1", "--filter", "x", "--filter", "y", "-e", "f"), "join them with &&"),
        (("-p", "1", "--filter", "x", "-e", "f", "--filter", "y"), "'x' belongs to no probe"),
        (("--merge", "trace"), "HITS_FILE"),
        (("--merge", "trace", "hits", "more"), "HITS_FILE"),
        (("--merge", "trace", "-p", "1", "-e", "f"), "-o FILE"),
        (("--merge", "trace", "-p", "1", "-e", "f", "-o", "x", "--count"), "--count"),
        (("--merge", "trace", "-p", "1", "-e", "f", "-o", "x", "--explain"), "--merge"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    assert words in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("arguments", "probes"),
    [
        (("-e", "a", "--filter", "x"), [("a", "x")]),
        (("-e", "a", "-e", "b", "--filter", "x"), [("a", "x"), ("b", "x")]),
        (("-e", "a", "--filter", "x", "-e", "b"), [("a", "x"), ("b", None)]),
        (("-e", "a", "--filter", "x", "-e", "b", "--filter", "y"), [("a", "x"), ("b", "y")]),
        (("--filter", "x", "-e", "a", "-e", "b"), [("a", "x"), ("b", "x")]),
        (("--filter", "x", "-e", "a", "--filter", "y", "-e", "b"), [("a", "y"), ("b", "x")]),
        (("-e", "a", "--filter=x", "--probe=a", "--count", "-e", "a"), [("a", "x"), ("a", None)]),
        (("-e--filter", "--filter", "-e"), [("--filter", "-e")]),
    ],
)
def test_a_filter_belongs_to_the_probes_before_it_that_have_none(
    arguments: tuple[str, ...], probes: list[tuple[str, str | None]]
) -> None:
    assert options("-p", "1", *arguments).probes == tuple(
        ProbeOption(spec, condition) for spec, condition in probes
    )


def test_a_filter_of_the_commands_own_is_the_commands() -> None:
    parsed = options("-e", "a", "--", "cmd", "-e", "b", "--filter", "x")
    assert parsed.probes == (ProbeOption("a"),)


def test_merge_without_probes_takes_the_file_of_hits() -> None:
    parsed = options("--merge", "trace", "-o", "out", "hits")
    assert (parsed.merge, parsed.hits_file, parsed.output) == ("trace", "hits", "out")
    assert parsed.command == ()


def test_merge_with_probes_has_a_command() -> None:
    parsed = options("--merge", "trace", "-o", "out", "-e", "f", "sort")
    assert (parsed.merge, parsed.hits_file, parsed.command) == ("trace", None, ("sort",))


def test_help_and_version_are_answered_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--help"]) is None
    text = capsys.readouterr().out
    assert text.startswith("Usage: ptrace-uprobes [OPTIONS] (--pid PID | -- COMMAND [ARGUMENT...])")
    assert "--colocate" in text
    assert parse(["--version"]) is None
    assert capsys.readouterr().out.startswith("ptrace-uprobes 0.")
