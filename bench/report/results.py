"""What a run of the benchmarks found, read from pytest-benchmark's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
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
        return str(self.facts.get("label", self.facts.get("contestant", self.name)))

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
    commit: str
    """Of the code that was measured; empty if the file does not tell."""
    quick: bool
    interrupted: bool
    """It is not whole: Ctrl-C ended it."""
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
    """Raises `BadResults` for a file that cannot be read, is something else or is damaged: what is
    handed back holds all that the report relies on."""
    try:
        text = path.read_text()
        data = json.loads(text)
        # A lone surrogate, which JSON can hold, cannot be written again: a ValueError too.
        json.dumps(data, ensure_ascii=False).encode()
        return _results(path, data)
    except OSError as error:
        raise BadResults(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise BadResults(f"{path} holds no results of `python -m bench`: {why}") from error


_WORDS = frozenset(
    (
        "adds",
        "contestant",
        "curve",
        "fullname",
        "goal",
        "group",
        "instruction",
        "kernel_name",
        "kind",
        "mechanism",
        "name",
        "placement",
        "primitive",
        "reason",
        "series",
        "site",
        "task",
        "unit",
        "version",
        "work",
        "x_name",
        "y_name",
    )
)
"""Facts that are text wherever they stand."""
_POSITIVE = frozenset(("factor", "factor_low", "factor_high", "ratio", "ratio_low", "ratio_high"))
_NUMBERS = frozenset(
    (
        "added",
        "added_high",
        "added_low",
        "first",
        "high",
        "hits",
        "last",
        "layer",
        "low",
        "promised",
        "value",
    )
)
_OF_KIND = {
    "scaling": ("curve", "series", "x", "x_name", "y_name"),
    "layer": ("layer", "adds"),
    "primitive": ("primitive",),
}
_MACHINE = ("processor", "virtual", "kernel", "python", "governor", "user")
_SMALLEST, _LARGEST = 1e-18, 1e18
"""What lies beyond is damage, and no axis can show it."""


def _results(path: Path, data: object) -> Results:
    top = _object(data, "the file")
    machine = _object(
        _object(_has(top, "machine_info", "the file"), "machine_info").get("measured"), "measured"
    )
    for name in _MACHINE:
        _text(machine, name, "the machine")
    for name in ("cpus", "load"):
        _number(_has(machine, name, "the machine"), f"the machine's {name}")
    _object(machine.get("mitigations"), "mitigations")
    return Results(
        path=path,
        taken=_text(top, "datetime", "the file"),
        commit=_commit(top.get("commit_info")),
        quick=bool(_has(top, "quick", "the file")),
        interrupted=bool(top.get("interrupted", False)),
        machine=machine,
        entries=tuple(map(_entry, _list(top, "benchmarks"))),
        absent=tuple(map(_absent, _list(top, "not_measured"))),
        figures=tuple(map(_figure, _list(top, "figures"))),
    )


def _commit(told: object) -> str:
    """What pytest-benchmark says of the repository, which need not be there."""
    if not isinstance(told, dict) or not isinstance(told.get("id"), str):
        return ""
    commit: str = told["id"][:12]
    return f"{commit}, changed" if told.get("dirty") else commit


def _entry(found: object) -> Entry:
    one = _object(found, "a benchmark")
    name = _text(one, "name", "a benchmark")
    facts = _facts(_has(one, "extra_info", name), name)
    if "ratio" in facts:
        _need(facts, ("ratio_low", "ratio_high"), name)
    _need(facts, _OF_KIND.get(facts.get("kind", ""), ()), name)
    group = "without a group" if one.get("group") is None else _text(one, "group", name)
    if group.startswith("peers: "):
        _need(facts, ("placement",), name)
    stats = _object(_has(one, "stats", name), f"{name}: stats")
    low, median, high = (
        _number(_has(stats, which, name), f"{name}: {which}", _SMALLEST)
        for which in ("q1", "median", "q3")
    )
    # Quartiles of equal values differ in their last bits.
    if low > median * (1 + 1e-9) or high < median * (1 - 1e-9):
        raise ValueError(f"{name}: the median is not between the quartiles")
    return Entry(
        group=group,
        name=name,
        median=median,
        low=min(low, median),
        high=max(high, median),
        rounds=int(_number(_has(stats, "rounds", name), f"{name}: rounds", 1)),
        facts=facts,
    )


def _figure(found: object) -> Mapping[str, Any]:
    one = _facts(found, "a figure")
    name = _text(one, "name", "a figure")
    _text(one, "group", name)
    _need(one, ("unit", "value"), name)
    if "low" in one or "promised" in one or one["group"] == "growth":
        _need(one, ("low", "high"), name)
    if one["group"] == "growth":
        _need(one, ("factor", "factor_low", "factor_high", "first", "last"), name)
    return one


def _absent(found: object) -> Mapping[str, str]:
    one = _facts(found, "what was not measured")
    _need(one, ("reason",), "what was not measured")
    return one


def _facts(found: object, where: str) -> dict[str, Any]:
    """Each of them what it is wherever it stands; whoever needs one asks for it."""
    facts = _object(found, where)
    for name, value in facts.items():
        what = f"{where}: {name}"
        if name in _WORDS and not isinstance(value, str):
            if value is not None or name != "kernel_name":
                raise ValueError(f"{what} is no text")
        elif name in _NUMBERS:
            _number(value, what)
        elif name == "x" or name in _POSITIVE:  # both axes are logarithmic
            _number(value, what, _SMALLEST)
        elif name == "ratios":
            for ratio in _list(facts, name):
                _number(ratio, what, _SMALLEST)
        elif name == "cpus":
            if [type(cpu) for cpu in _list(facts, name)] != [int, int]:
                raise ValueError(f"{what} are not two numbers")
    return facts


def _has(one: Mapping[str, Any], name: str, where: str) -> object:
    if name not in one:
        raise ValueError(f"{where} has no {name}")
    return one[name]


def _need(one: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    for name in names:
        _has(one, name, where)


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object")
    return value


def _list(one: Mapping[str, Any], name: str) -> list[Any]:
    value = _has(one, name, "the file")
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def _text(one: Mapping[str, Any], name: str, where: str) -> str:
    """Not empty: headings begin with a capital."""
    value = _has(one, name, where)
    if not isinstance(value, str) or not value or value != value.strip():
        raise ValueError(f"{where}: {name} is no text")
    return value


def _number(value: object, what: str, least: float = -_LARGEST) -> float:
    # A boolean is an int for Python; NaN is less than nothing.
    if type(value) not in (int, float) or not least <= value <= _LARGEST:  # type: ignore[operator]  # no other types are left
        raise ValueError(f"{what} is {str(value)[:40]!r}")
    return float(value)  # type: ignore[arg-type]  # as above
