"""The command line, as one frozen value.

click rather than argparse, because its options end at COMMAND or at `--` alike on every Python,
and what follows is COMMAND's own, dashes and all; argparse's REMAINDER has changed its mind
about `--` between versions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import click

from ptrace_uprobes import __version__
from ptrace_uprobes.errors import UsageError

__all__ = ["HandlerReference", "Options", "parse"]

_USAGE = "[OPTIONS] (--pid PID | -- COMMAND [ARGUMENT...])"


@dataclass(frozen=True, slots=True)
class HandlerReference:
    """`FILE.py:FUNCTION`."""

    path: str
    function: str


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    pids: tuple[int, ...]
    command: tuple[str, ...]
    specs: tuple[str, ...]
    handler: HandlerReference | None
    follow_forks: bool
    output: str | None
    format: str
    count: bool
    max_hits: int | None
    duration: float | None
    mechanism: str
    colocate: str
    explain: bool


def _seconds(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise click.BadParameter("give a number of seconds above 0")
    return value


def _handler(_: click.Context, __: click.Parameter, value: str | None) -> HandlerReference | None:
    if value is None:
        return None
    path, _colon, function = value.rpartition(":")
    if not path or not function.isidentifier():
        raise click.BadParameter(f"{value!r} is not FILE.py:FUNCTION")
    return HandlerReference(path, function)


@click.command(
    options_metavar=_USAGE,
    context_settings={
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    epilog="The exit status is COMMAND's own (128+N for signal N); 2 for wrong usage; 1 for a "
    "failure of ours; 127 or 126 if COMMAND does not exist or cannot be executed.",
)
@click.option(
    "-p",
    "--pid",
    "pids",
    metavar="PID",
    type=click.IntRange(min=1),
    multiple=True,
    help="A running process, all its threads; may be repeated.",
)
@click.option(
    "-e",
    "--probe",
    "specs",
    metavar="SPEC",
    multiple=True,
    help="Where: SYMBOL, SYMBOL+OFFSET, MODULE:SYMBOL, 0xADDRESS, MODULE:0xOFFSET; globs in "
    "SYMBOL; may be repeated.",
)
@click.option(
    "--handler",
    metavar="FILE.py:FUNCTION",
    callback=_handler,
    help="Call FUNCTION(hit) at each hit.",
)
@click.option(
    "-f",
    "--follow-forks",
    is_flag=True,
    help="Trace children too; without it they run on, clean of every trap.",
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of standard error.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "jsonl"]),
    default="text",
    show_default=True,
)
@click.option("--count", is_flag=True, help="No line per hit, only the summary.")
@click.option(
    "--max-hits",
    metavar="N",
    type=click.IntRange(min=1),
    help="Detach after N hits; the program goes on.",
)
@click.option(
    "--duration",
    metavar="SECONDS",
    type=float,
    callback=_seconds,
    help="Detach after SECONDS; the program goes on.",
)
@click.option(
    "--mechanism",
    type=click.Choice(["auto", "emulate", "boost", "step"]),
    default="auto",
    show_default=True,
    help="Prefer one way to execute displaced instructions; a site that cannot have it gets "
    "auto's, and the summary says so.",
)
@click.option(
    "--colocate",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Keep tracer and program on one CPU.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Print each probe's plan to standard output (or FILE), and run nothing past the entry "
    "point.",
)
@click.version_option(__version__, prog_name="ptrace-uprobes", message="%(prog)s %(version)s")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="")
def _command(
    pids: tuple[int, ...],
    specs: tuple[str, ...],
    handler: HandlerReference | None,
    follow_forks: bool,
    output: str | None,
    output_format: str,
    count: bool,
    max_hits: int | None,
    duration: float | None,
    mechanism: str,
    colocate: str,
    explain: bool,
    command: tuple[str, ...],
) -> Options:
    """Probe any instruction of a program through ptrace, and leave the program as it was."""
    if pids and command:
        raise click.UsageError("give --pid or COMMAND, not both")
    if not pids and not command:
        raise click.UsageError("nothing to probe: give --pid PID, or -- COMMAND")
    if not specs:
        raise click.UsageError("no probe: give at least one -e SPEC")
    return Options(
        pids=tuple(dict.fromkeys(pids)),
        command=command,
        specs=tuple(dict.fromkeys(specs)),
        handler=handler,
        follow_forks=follow_forks,
        output=output,
        format=output_format,
        count=count,
        max_hits=max_hits,
        duration=duration,
        mechanism=mechanism,
        colocate=colocate,
        explain=explain,
    )


def parse(arguments: Sequence[str]) -> Options | None:
    """The options; None if --help or --version has been answered. Raises `UsageError`."""
    try:
        with _command.make_context("ptrace-uprobes", list(arguments)) as context:
            options = _command.invoke(context)
    except click.exceptions.Exit:
        return None
    except click.UsageError as error:
        raise UsageError(f"{error.format_message()} (see ptrace-uprobes --help)") from error
    assert isinstance(options, Options)  # what the function above returns; click says Any
    return options
