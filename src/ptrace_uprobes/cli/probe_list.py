"""The definitions that the user gave, those in files among them, read before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.definition.condition import Condition
from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.definition.definition import Definition, parse_definition
from ptrace_uprobes.definition.definition_file import read_definitions
from ptrace_uprobes.errors import BadFilter, UsageError, printable
from ptrace_uprobes.fetching.fetcher import compile_fetcher
from ptrace_uprobes.fetching.layout import Layout

__all__ = ["WantedProbe", "wanted_probes"]


@dataclass(frozen=True, slots=True)
class WantedProbe:
    """A definition, and the filter that it is to have."""

    definition: Definition
    filter: str | None


def wanted_probes(options: Options) -> list[WantedProbe]:
    """One for each definition, equal ones once. Raises `BadSpec`, `BadFilter`, and what is wrong
    with a file or does not go together."""
    found: dict[tuple[str, str | None], WantedProbe] = {}
    for definition, condition in _all(options):
        if options.request.data_length is not None and definition.is_return:
            raise UsageError(
                f"--request data cannot be had of {definition.text}: when a function returns, "
                "its first argument is gone"
            )
        if options.request.data_length is not None and definition.place.provider is not None:
            raise UsageError(
                f"--request data cannot be had of {definition.text}: a marker is in the middle of "
                "a function; write +0(arg0):x8[16] or the like"
            )
        wanted = WantedProbe(definition, condition)
        found.setdefault((definition.text.strip(), condition), wanted)
    return list(found.values())


def _all(options: Options) -> Iterator[tuple[Definition, str | None]]:
    for probe in options.probes:
        condition = None if probe.filter is None else parse_filter(probe.filter)
        for text, where in _texts(probe.spec):
            definition = parse_definition(text)
            if probe.filter is not None:
                _check_filter(definition, condition, probe.filter, where)
            yield definition, probe.filter


def _texts(spec: str) -> Iterator[tuple[str, str]]:
    """The definitions that a SPEC stands for, and where each is, if in a file."""
    if spec.startswith("@"):
        for number, text in read_definitions(spec[1:]):
            yield text, f"{spec[1:]}:{number}: "
    else:
        yield spec, ""


def _check_filter(
    definition: Definition, condition: Condition | None, text: str, where: str
) -> None:
    """That the filter fits, also where the probe may be planted much later."""
    try:
        compile_fetcher(
            definition.fetchargs,
            condition,
            is_return=definition.is_return,
            layout=Layout(),
            filter_text=text,
        )
    except BadFilter as error:
        shown = printable(definition.text.strip())
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise UsageError(f"{where}{shown}: {error}") from error
