"""The books of a run: what was done, what was counted, and whether it reconciles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import ptrace_uprobes as pu
from tests.soak.member import Member, Wrong

__all__ = ["Books", "total"]

_DONE_BY_MEMBERS = ("forks", "execs", "threads", "signals", "crashes", "kills", "loads")


def total(members: Iterable[Member]) -> Counter[str]:
    """The members' own counts, added up."""
    found: Counter[str] = Counter()
    for member in members:
        found.update(member.counts())
    return found


class Books:
    """Totals of a run. Every figure that is compared is compared here."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.hits = 0
        self.missed: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()

    def add_probes(self, probes: Iterable[pu.Probe]) -> None:
        """Note what they counted."""
        for probe in probes:
            self.done["probes"] += 1
            self.hits += probe.hits
            self.missed.update(probe.missed_causes)

    def add_members(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Note what the fleet did meanwhile."""
        for name in _DONE_BY_MEMBERS:
            self.done[f"fleet's {name}"] += after[name] - before[name]

    def warn(self, text: str) -> None:
        """For an engine's `on_warning`."""
        self.warnings["".join("#" if c.isdigit() else c for c in text)] += 1

    @staticmethod
    def compare(what: str, counted: int, least: int, most: int | None = None) -> None:
        """Hits and misses together against the truth, which may be known to lie within bounds."""
        most = least if most is None else most
        if not least <= counted <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise Wrong(f"{what}: hits and misses make {counted}, the truth is {wanted}")

    def summary(self) -> str:
        """The totals, a line each."""
        lines = [f"  {name}: {number}" for name, number in sorted(self.done.items())]
        lines.append(f"  hits: {self.hits}")
        causes = ", ".join(f"{cause}: {n}" for cause, n in sorted(self.missed.items()))
        lines.append(f"  missed: {sum(self.missed.values())}" + (f" ({causes})" if causes else ""))
        lines.extend(f"  warned {n} times: {text}" for text, n in self.warnings.most_common(8))
        return "\n".join(lines)
