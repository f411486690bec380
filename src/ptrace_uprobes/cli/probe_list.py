"""The definitions that the user gave, those in files among them, read before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.definition.definition import Definition, parse_definition
from ptrace_uprobes.definition.definition_file import read_definitions
from ptrace_uprobes.errors import UsageError

__all__ = ["WantedProbe", "wanted_probes"]


@dataclass(frozen=True, slots=True)
class WantedProbe:
    """A definition, and the filter that it is to have."""

    definition: Definition
    filter: str | None


def wanted_probes(options: Options) -> list[WantedProbe]:
    """One for each definition, equal ones once. Raises `BadSpec`, `BadFilter`, and what is wrong
    with a file."""
    found: dict[tuple[str, str | None], WantedProbe] = {}
    for definition, condition in _all(options):
        if options.request.data_length is not None and definition.is_return:
            raise UsageError(
                f"--request data cannot be had of {definition.text}: when a function returns, "
                "its first argument is gone"
            )
        wanted = WantedProbe(definition, condition)
        found.setdefault((definition.text, condition), wanted)
    return list(found.values())


def _all(options: Options) -> Iterator[tuple[Definition, str | None]]:
    for probe in options.probes:
        if probe.filter is not None:
            parse_filter(probe.filter)
        if probe.spec.startswith("@"):
            for text in read_definitions(probe.spec[1:]):
                yield parse_definition(text), probe.filter
        else:
            yield parse_definition(probe.spec), probe.filter
