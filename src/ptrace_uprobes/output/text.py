"""Text in the shape of the kernel's trace output (Documentation/trace/ftrace.rst)."""

from __future__ import annotations

from collections.abc import Callable

from ptrace_uprobes.engine import SitePlan
from ptrace_uprobes.output.summary import ProbeSummary, Summary
from ptrace_uprobes.output.threads import ThreadFacts
from ptrace_uprobes.probe import Hit

__all__ = ["TextFormat", "printable"]

_NAMES_KEPT = 4096
_SITES_SHOWN = 20


def printable(text: str) -> str:
    """The text with what would break a line, or disturb a terminal, written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class TextFormat:
    """COMM-TID [CPU] SECONDS.MICROS: EVENT: (ADDRESS)"""

    def __init__(self) -> None:
        self._threads = ThreadFacts("stat")
        self._names: dict[tuple[str, int], str] = {}

    def hit_formatter(self, spec: str) -> Callable[[Hit], str]:
        """EVENT is the place's own label, so that a glob's hits tell themselves apart."""
        names = self._names
        comm_and_cpu = self._threads.comm_and_cpu
        name_of = self._name_of

        def format_hit(hit: Hit) -> str:
            # Hot: once per hit.
            tid = hit.tid
            comm, cpu = comm_and_cpu(hit.pid, tid)
            key = (comm, tid)
            name = names.get(key) or name_of(key)
            seconds, nanoseconds = divmod(hit.time_ns, 1_000_000_000)
            return (
                f"{name} [{cpu:03d}] {seconds}.{nanoseconds // 1000:06d}:"
                f" {hit.label}: ({hit.address:#x})\n"
            )

        return format_hit

    def plan(self, plan: SitePlan) -> str:
        slot = "" if plan.slot is None else f" slot={plan.slot:#x}"
        reason = "" if plan.reason is None else f" ({plan.reason})"
        where = f"{plan.module}:{plan.label}"
        return (
            f"{plan.probe.spec}: {plan.address:#x} {printable(where)}: {plan.code.hex(' ')}:"
            f" {plan.instruction}: {plan.mechanism}{reason}{slot}\n"
        )

    def summary(self, summary: Summary) -> str:
        lines = [self._headline(summary)]
        width = max((len(probe.spec) for probe in summary.probes), default=0)
        for probe in summary.probes:
            lines.append(f"  {probe.spec:<{width}}  {_totals(probe)}")
            lines.extend(_sites(probe))
        if summary.mechanisms:
            counts = ", ".join(f"{name} {n}" for name, n in sorted(summary.mechanisms.items()))
            lines.append(f"  sites by mechanism: {counts}")
        for name, number in sorted(summary.not_as_preferred.items()):
            lines.append(
                f"  {_count(number, 'site')} could not have {summary.preferred} and got {name}"
            )
        return "".join(f"{line}\n" for line in lines)

    def _headline(self, summary: Summary) -> str:
        if summary.exit_status is None:
            end = {
                "timeout": "the duration is over, detached",
                "max_hits": "enough hits, detached",
                "interrupted": "interrupted, detached",
            }.get(summary.ended, "detached")
        else:
            end = f"exit status {summary.exit_status}"
        return f"{_count(summary.hits, 'hit')}, {summary.missed} missed; {end}"

    def _name_of(self, key: tuple[str, int]) -> str:
        if len(self._names) >= _NAMES_KEPT:
            self._names.clear()
        comm, tid = key
        name = self._names[key] = f"{printable(comm):>16}-{tid:<7d}"
        return name


def _totals(probe: ProbeSummary) -> str:
    parts = [_count(probe.hits, "hit")]
    if probe.missed:
        causes = ", ".join(f"{cause}: {n}" for cause, n in sorted(probe.missed_causes.items()))
        parts.append(f"{probe.missed} missed ({causes})" if causes else f"{probe.missed} missed")
    if probe.handler_errors:
        parts.append(f"handler raised {_count(probe.handler_errors, 'time')}")
    if probe.sites:
        parts.append(_count(len(probe.sites), "place"))
    if probe.not_found is not None:
        parts.append(f"never planted: {probe.not_found}")
    return ", ".join(parts)


def _sites(probe: ProbeSummary) -> list[str]:
    """The places that were hit, most hits first; their number is in the line above."""
    hit = sorted(
        (site for site in probe.sites if site.hits or site.missed),
        key=lambda site: (-site.hits, site.name),
    )
    lines = []
    for site in hit[:_SITES_SHOWN]:
        missed = f", {site.missed} missed" if site.missed else ""
        lines.append(f"    {site.hits:>10}  {printable(site.name)}{missed}")
    if len(hit) > _SITES_SHOWN:
        rest = sum(site.hits for site in hit[_SITES_SHOWN:])
        lines.append(f"    {rest:>10}  in {len(hit) - _SITES_SHOWN} more places")
    return lines
