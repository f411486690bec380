"""JSON lines: one record a line, `type` first."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps

from ptrace_uprobes.engine import SitePlan
from ptrace_uprobes.output.summary import ProbeSummary, Summary
from ptrace_uprobes.output.threads import ThreadFacts
from ptrace_uprobes.probe import Hit

__all__ = ["JsonLinesFormat"]

_NAMES_KEPT = 4096


class JsonLinesFormat:
    """Addresses are strings (`"0x7f.."`): 64 bits do not fit a JSON reader's double."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._threads = ThreadFacts("comm")

    def hit_formatter(self, spec: str) -> Callable[[Hit], str]:
        names = self._names
        name_of = self._name_of
        comm_of = self._threads.comm
        probe_and_address = f',"probe":{dumps(spec)},"address":"'

        def format_hit(hit: Hit) -> str:
            # Hot: once per hit. What needs escaping is escaped beforehand; the rest are integers.
            pid, tid = hit.pid, hit.tid
            comm = comm_of(pid, tid)
            return (
                f'{{"type":"hit","time_ns":{hit.time_ns},"pid":{pid},"tid":{tid},"comm":'
                f'{names.get(comm) or name_of(comm)}{probe_and_address}{hit.address:#x}"}}\n'
            )

        return format_hit

    def plan(self, plan: SitePlan) -> str:
        return _line(
            {
                "type": "plan",
                "probe": plan.probe.spec,
                "address": f"{plan.address:#x}",
                "bytes": plan.code.hex(),
                "instruction": plan.instruction,
                "mechanism": plan.mechanism,
                "reason": plan.reason,
            }
        )

    def summary(self, summary: Summary) -> str:
        return _line(
            {
                "type": "summary",
                "probes": {probe.spec: _probe(probe) for probe in summary.probes},
                "mechanisms": dict(summary.mechanisms),
                "exit_status": summary.exit_status,
            }
        )

    def _name_of(self, comm: str) -> str:
        if len(self._names) >= _NAMES_KEPT:
            self._names.clear()
        name = self._names[comm] = dumps(comm)
        return name


def _line(record: dict[str, object]) -> str:
    return dumps(record, separators=(",", ":")) + "\n"


def _probe(probe: ProbeSummary) -> dict[str, object]:
    record: dict[str, object] = {"hits": probe.hits, "missed": probe.missed}
    if probe.sites:
        record["sites"] = {
            site.name: {"hits": site.hits, "missed": site.missed} for site in probe.sites
        }
    return record
