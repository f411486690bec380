"""What a run of the benchmarks found, read from pytest-benchmark's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.interval import Estimate

__all__ = ["BadResults", "Entry", "Results", "read_results"]


class BadResults(Exception):
    """The file is none of ours; says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One benchmark: durations in seconds, and the facts that go with them."""

    group: str
    name: str
    median: float
    low: float
    high: float
    """The first and the third quartile."""
    rounds: int
    facts: Mapping[str, Any]

    @property
    def label(self) -> str:
        return str(self.facts.get("contestant", self.name))

    @property
    def kind(self) -> str:
        return str(self.facts.get("kind", ""))

    @property
    def ratio(self) -> Estimate | None:
        """To the reference loop in the same rounds, or to whatever the benchmark compares with."""
        if "ratio" not in self.facts:
            return None
        return Estimate(self.facts["ratio"], self.facts["ratio_low"], self.facts["ratio_high"])

    @property
    def disturbed(self) -> bool:
        return bool(self.facts.get("disturbed"))


@dataclass(frozen=True, slots=True)
class Results:
    """One run."""

    path: Path
    taken: str
    quick: bool
    machine: Mapping[str, Any]
    entries: tuple[Entry, ...]
    absent: tuple[Mapping[str, str], ...]
    """What was not measured, each with its reason."""
    figures: tuple[Mapping[str, Any], ...]
    """What is no duration."""

    def groups(self) -> dict[str, list[Entry]]:
        """In the order in which they were measured."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.group, []).append(entry)
        return found

    def of_kind(self, kind: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == kind]

    def find(self, **facts: Any) -> Entry | None:
        """The first entry with these facts."""
        return next(self._with(facts), None)

    def _with(self, facts: Mapping[str, Any]) -> Iterator[Entry]:
        for entry in self.entries:
            if all(entry.facts.get(name) == value for name, value in facts.items()):
                yield entry


def read_results(path: Path) -> Results:
    """Raises `BadResults` for a file that cannot be read or is something else."""
    try:
        data = json.loads(path.read_text())
        entries = tuple(_entry(one) for one in data["benchmarks"])
        return Results(
            path=path,
            taken=data["datetime"],
            quick=bool(data["quick"]),
            machine=data["machine_info"]["measured"],
            entries=entries,
            absent=tuple(data["not_measured"]),
            figures=tuple(data["figures"]),
        )
    except OSError as error:
        raise BadResults(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadResults(f"{path} holds no results of `python -m bench`: {error!r}") from error


def _entry(one: Mapping[str, Any]) -> Entry:
    stats = one["stats"]
    return Entry(
        group=one["group"] or "",
        name=one["name"],
        median=stats["median"],
        low=stats["q1"],
        high=stats["q3"],
        rounds=stats["rounds"],
        facts=one["extra_info"],
    )
