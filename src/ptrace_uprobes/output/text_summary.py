"""The end of a run, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ptrace_uprobes.output.printable import printable
from ptrace_uprobes.output.summary import ProbeSummary, Summary

__all__ = ["summary_text"]

_SITES_SHOWN = 20
_WIDEST = 60
_LONGEST = 200
"""Characters of a definition; JSON lines have it whole."""


def summary_text(summary: Summary) -> str:
    lines = [_headline(summary)]
    names = [_cut(printable(probe.name)) for probe in summary.probes]
    width = min(max(map(len, names), default=0), _WIDEST)
    for name, probe in zip(names, summary.probes, strict=True):
        lines.append(f"  {name:<{width}}  {_totals(probe)}")
        lines.extend(_sites(probe))
    if summary.mechanisms:
        counts = ", ".join(f"{name} {n}" for name, n in sorted(summary.mechanisms.items()))
        lines.append(f"  sites by mechanism: {counts}")
    for name, number in sorted(summary.not_as_preferred.items()):
        lines.append(
            f"  {_count(number, 'site')} could not have {summary.preferred} and got {name}"
        )
    return "".join(f"{line}\n" for line in lines)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


_WHY_DETACHED: Final = {
    "timeout": "the duration is over, detached",
    "max_hits": "enough hits, detached",
    "interrupted": "interrupted, detached",
}


def _headline(summary: Summary) -> str:
    # A program that was let go of may have ended by now: that is not why we did.
    end = _WHY_DETACHED.get(summary.ended)
    if end is None:
        known = summary.exit_status is not None
        end = f"exit status {summary.exit_status}" if known else "detached"
    return f"{_count(summary.hits, 'hit')}, {summary.missed} missed; {end}"


def _totals(probe: ProbeSummary) -> str:
    parts = [_count(probe.hits, "hit")]
    if probe.missed:
        parts.append(f"{probe.missed} missed{_causes(probe.missed_causes)}")
    if probe.filtered is not None:
        parts.append(f"{probe.filtered} filtered")
    if probe.unreturned is not None:
        parts.append(f"{probe.unreturned} unreturned{_causes(probe.unreturned_causes)}")
    if probe.handler_errors:
        parts.append(f"handler raised {_count(probe.handler_errors, 'time')}")
    if probe.sites:
        parts.append(_count(len(probe.sites), "place"))
    if probe.not_found is not None:
        parts.append(f"never planted: {probe.not_found}")
    return ", ".join(parts)


def _causes(causes: Mapping[str, int]) -> str:
    text = ", ".join(f"{cause}: {n}" for cause, n in sorted(causes.items()))
    return f" ({text})" if text else ""


def _sites(probe: ProbeSummary) -> list[str]:
    """The places that were hit, most hits first; their number is in the line above."""
    hit = sorted(
        (site for site in probe.sites if site.hits or site.missed or site.unreturned),
        key=lambda site: (-site.hits, site.name),
    )
    lines = []
    for site in hit[:_SITES_SHOWN]:
        missed = f", {site.missed} missed" if site.missed else ""
        missed += f", {site.unreturned} unreturned" if site.unreturned else ""
        lines.append(f"    {site.hits:>10}  {printable(site.name)}{missed}")
    if len(hit) > _SITES_SHOWN:
        rest = sum(site.hits for site in hit[_SITES_SHOWN:])
        lines.append(f"    {rest:>10}  in {len(hit) - _SITES_SHOWN} more places")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
