"""The command line, read.

click rather than argparse, because its options end at COMMAND or at `--` alike on every Python,
and what follows is COMMAND's own, dashes and all; argparse's REMAINDER has changed its mind
about `--` between versions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import click

from ptrace_uprobes import __version__
from ptrace_uprobes.cli.filter_pairs import OrderedCommand
from ptrace_uprobes.cli.options import HandlerReference, Options
from ptrace_uprobes.errors import UsageError
from ptrace_uprobes.output.request import LONGEST_DATA, Request

__all__ = ["parse"]

_USAGE = "[OPTIONS] (--pid PID | -- COMMAND [ARGUMENT...])"
_REQUESTS = ("regs", "data", "stack")


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


def _requests(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = () if value is None else tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in _REQUESTS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(_REQUESTS)}")
    return names


@click.command(
    cls=OrderedCommand,
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
    help="Where, and what to record: [MODULE:]PLACE[%return] [FETCHARG...], PLACE being SYMBOL, "
    "SYMBOL+OFFSET, 0xADDRESS, FILE.c:LINE, or a glob; or a line in bpftrace's notation, usdt: "
    "too, or the kernel's; or @FILE, a file of these, one a line. May be repeated.",
)
@click.option(
    "--filter",
    "filters",
    metavar="EXPR",
    multiple=True,
    help="Only hits of which EXPR is true, as 'size > 4096 && comm != \"sh\"'. Belongs to the -e "
    "options before it that have no filter yet; given before any -e, to all that have none.",
)
@click.option(
    "--request",
    "requests",
    metavar="LIST",
    callback=_requests,
    help="Also record at each hit, separated by commas: regs, the registers; data, --length bytes "
    "at the address in the first argument; stack, the user stack.",
)
@click.option(
    "--length",
    metavar="N",
    type=click.IntRange(1, LONGEST_DATA),
    help="Bytes that --request data reads.",
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
@click.option(
    "--emit",
    type=click.Choice(["kernel"]),
    help="Print the probes as lines for the kernel's uprobe_events, to standard output (or FILE), "
    "and run nothing past the entry point.",
)
@click.option(
    "--trace-marker",
    is_flag=True,
    help="Write each hit into the kernel's trace as well (tracefs trace_marker).",
)
@click.option(
    "--trace-instance",
    metavar="NAME|DIRECTORY",
    help="The tracefs instance that --trace-marker writes to.",
)
@click.option(
    "--merge",
    metavar="TRACE",
    help="Merge TRACE, a kernel trace saved as text (trace_clock mono), with the hits, by time: "
    "after a run, into -o FILE; or with the hits of an earlier run: "
    "ptrace-uprobes --merge TRACE [-o FILE] HITS_FILE.",
)
@click.version_option(__version__, prog_name="ptrace-uprobes", message="%(prog)s %(version)s")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.pass_context
def _command(
    context: click.Context,
    /,
    pids: tuple[int, ...],
    specs: tuple[str, ...],
    filters: tuple[str, ...],
    requests: tuple[str, ...],
    length: int | None,
    output_format: str,
    command: tuple[str, ...],
    **others: Any,
) -> Options:
    """Probe any instruction of a program through ptrace, and leave the program as it was."""
    probes = OrderedCommand.probes(context)
    hits_file = None
    if others["merge"] is not None and not probes and not pids:
        if len(command) != 1:
            raise click.UsageError("--merge TRACE needs the HITS_FILE of a run, or a run: -e SPEC")
        (hits_file,) = command
        command = ()
    elif pids and command:
        raise click.UsageError("give --pid or COMMAND, not both")
    elif not pids and not command:
        raise click.UsageError("nothing to probe: give --pid PID, or -- COMMAND")
    elif not probes:
        raise click.UsageError("no probe: give at least one -e SPEC")
    options = Options(
        pids=tuple(dict.fromkeys(pids)),
        command=command,
        probes=probes,
        request=_request(requests, length),
        format=output_format,
        hits_file=hits_file,
        **others,
    )
    _check(options)
    return options


def _request(names: tuple[str, ...], length: int | None) -> Request:
    if "data" in names and length is None:
        raise click.UsageError("--request data needs --length N: how many bytes to read")
    if length is not None and "data" not in names:
        raise click.UsageError("--length N is for --request data")
    return Request("regs" in names, length, "stack" in names)


def _check(options: Options) -> None:
    """Options that contradict each other."""
    if options.explain and options.emit:
        raise click.UsageError("give --explain or --emit, not both")
    if options.trace_instance is not None and not options.trace_marker:
        raise click.UsageError("--trace-instance is for --trace-marker")
    if options.merge is None or options.hits_file is not None:
        return
    if options.explain or options.emit:
        raise click.UsageError("--merge needs a run, or the HITS_FILE of one")
    if options.count:
        raise click.UsageError("--count leaves no hits for --merge")
    if options.output is None:
        raise click.UsageError("--merge after a run needs -o FILE: what it merges into")


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
