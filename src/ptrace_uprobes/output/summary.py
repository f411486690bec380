"""The facts of a finished run, frozen, for any format to print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os.path import basename

from ptrace_uprobes.engine import Result
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.probe import Probe

__all__ = ["ProbeSummary", "SiteSummary", "Summary", "summarize"]


@dataclass(frozen=True, slots=True)
class SiteSummary:
    """One place of a probe, summed over the processes that have it."""

    name: str
    hits: int
    missed: int
    unreturned: int | None = None
    """Of a return probe."""


@dataclass(frozen=True, slots=True)
class ProbeSummary:
    """One probe's totals."""

    name: str
    """The SPEC as given; with the filter where several probes have the same SPEC."""
    hits: int
    missed: int
    missed_causes: Mapping[str, int]
    filtered: int | None
    """Hits that its filter rejected; None if it has none."""
    unreturned: int | None
    """Calls that were left without a return; None if it is no return probe."""
    unreturned_causes: Mapping[str, int]
    handler_errors: int
    sites: tuple[SiteSummary, ...]
    """Empty unless the SPEC names many places."""
    not_found: str | None
    """Why it never had a place, if so."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One run."""

    probes: tuple[ProbeSummary, ...]
    mechanisms: Mapping[str, int]
    """Sites by the way their displaced instruction was executed."""
    preferred: str
    """`auto`, or the mechanism that was asked for."""
    exit_status: int | None
    """None if the program was still running when we let go of it."""
    ended: str

    @property
    def hits(self) -> int:
        return sum(probe.hits for probe in self.probes)

    @property
    def missed(self) -> int:
        return sum(probe.missed for probe in self.probes)

    @property
    def not_as_preferred(self) -> Mapping[str, int]:
        """Sites that could not have the mechanism that was asked for, by what they got."""
        if self.preferred == "auto":
            return {}
        return {name: n for name, n in self.mechanisms.items() if name != self.preferred and n}


def summarize(result: Result, probes: Iterable[Probe], preferred: str) -> Summary:
    """Take the totals of `probes` once the run has ended."""
    probes = list(probes)
    times = Counter(probe.spec for probe in probes)
    return Summary(
        probes=tuple(
            ProbeSummary(
                name=_name_of(probe) if times[probe.spec] > 1 else probe.spec,
                hits=result.hits.get(probe, probe.hits),
                missed=result.missed.get(probe, probe.missed),
                missed_causes=dict(probe.missed_causes),
                filtered=probe.filtered if probe.filter_text else None,
                unreturned=probe.unreturned if probe.definition.is_return else None,
                unreturned_causes=dict(probe.unreturned_causes),
                handler_errors=probe.handler_errors,
                sites=_sites_of(probe),
                not_found=_text(result.not_found.get(probe)),
            )
            for probe in probes
        ),
        mechanisms=dict(result.mechanisms),
        preferred=preferred,
        exit_status=result.exit_status,
        ended=result.ended,
    )


def _name_of(probe: Probe) -> str:
    return f"{probe.spec} if {probe.filter_text}" if probe.filter_text else probe.spec


def _text(error: UprobesError | None) -> str | None:
    return None if error is None else str(error)


def _sites_of(probe: Probe) -> tuple[SiteSummary, ...]:
    """The probe's places under names that tell them apart; none if it names one place."""
    places = {(site.label, site.module) for site in probe.sites}
    if len(places) < 2 and not probe.definition.place.is_glob:
        return ()
    modules_of_label = Counter(label for label, _ in places)
    hits: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    unreturned: Counter[str] = Counter()
    for site in probe.sites:
        ambiguous = modules_of_label[site.label] > 1
        name = f"{basename(site.module)}:{site.label}" if ambiguous else site.label
        hits[name] += site.hits
        missed[name] += site.missed
        unreturned[name] += site.unreturned
    is_return = probe.definition.is_return
    return tuple(
        SiteSummary(name, hits[name], missed[name], unreturned[name] if is_return else None)
        for name in hits
    )
