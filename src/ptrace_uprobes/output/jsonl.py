"""JSON lines: one record a line, `type` first."""

from __future__ import annotations

from collections.abc import Callable
from json import JSONEncoder
from typing import Any

from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.engine import SitePlan
from ptrace_uprobes.output.printable import without_bytes
from ptrace_uprobes.output.recorded import data_of
from ptrace_uprobes.output.request import NOTHING, Request
from ptrace_uprobes.output.summary import ProbeSummary, SiteSummary, Summary
from ptrace_uprobes.output.threads import ThreadFacts
from ptrace_uprobes.probe import Hit

__all__ = ["JsonLinesFormat"]

_NAMES_KEPT = 4096
_encode = JSONEncoder(separators=(",", ":")).encode  # dumps() would make one at each call


def _compact(value: object) -> str:
    text = _encode(value)
    # Half of these are whole characters beyond 16 bits: then nothing changes.
    return _encode(without_bytes(value)) if "\\udc" in text else text


class JsonLinesFormat:
    """Addresses and registers are strings (`"0x7f.."`): 64 bits do not fit a JSON reader's
    double."""

    def __init__(self, request: Request = NOTHING) -> None:
        self._request = request
        self._names: dict[str, str] = {}
        self._threads = ThreadFacts()

    def hit_formatter(self, definition: Definition) -> Callable[[Hit], str]:
        names = self._names
        name_of = self._name_of
        comm_of = self._threads.comm
        probe_and_address = f',"probe":{_compact(definition.text)},"address":"'
        more = self._more_of(definition)

        def format_hit(hit: Hit) -> str:
            # Hot: once per hit. What needs escaping is escaped beforehand; the rest are integers.
            pid, tid = hit.pid, hit.tid
            comm = comm_of(pid, tid)
            return (
                f'{{"type":"hit","time_ns":{hit.time_ns},"pid":{pid},"tid":{tid},"comm":'
                f'{names.get(comm) or name_of(comm)}{probe_and_address}{hit.address:#x}"'
                f"{more(hit) if more is not None else ''}}}\n"
            )

        return format_hit

    def plan(self, plan: SitePlan) -> str:
        definition = plan.probe.definition
        record: dict[str, object] = {
            "type": "plan",
            "probe": plan.probe.spec,
            "address": f"{plan.address:#x}",
            "bytes": plan.code.hex(),
            "instruction": plan.instruction,
            "mechanism": plan.mechanism,
            "reason": plan.reason,
        }
        if definition.is_return:
            record["return"] = True
        if definition.fetchargs:
            record["args"] = [argument.name for argument in definition.fetchargs]
        if plan.probe.filter_text:
            record["filter"] = plan.probe.filter_text
        return _line(record)

    def summary(self, summary: Summary) -> str:
        return _line(
            {
                "type": "summary",
                "probes": {probe.name: _probe(probe) for probe in summary.probes},
                "mechanisms": dict(summary.mechanisms),
                "exit_status": summary.exit_status,
            }
        )

    def _more_of(self, definition: Definition) -> Callable[[Hit], str] | None:
        """A function for the fields that not every probe has; None if this one has none."""
        is_return, has_arguments = definition.is_return, bool(definition.fetchargs)
        request = self._request
        if not (is_return or has_arguments or request):
            return None

        def more(hit: Hit) -> str:
            text = ""
            if is_return:
                text = f',"function":"{hit.function:#x}","return_value":"{hit.return_value:#x}"'
            fetcher = hit.fetcher
            if has_arguments and fetcher is not None:
                text += f',"args":{_compact(fetcher.as_json(hit.values))}'
            if request:
                text += "".join(
                    f',"{name}":{_compact(value)}'
                    for name, value in _requested(hit, request).items()
                )
            return text

        return more

    def _name_of(self, comm: str) -> str:
        if len(self._names) >= _NAMES_KEPT:
            self._names.clear()
        name = self._names[comm] = _compact(comm)
        return name


def _requested(hit: Hit, request: Request) -> dict[str, Any]:
    """What `--request` adds."""
    record: dict[str, Any] = {}
    if request.regs:
        record["regs"] = {name: f"{value:#x}" for name, value in hit.registers.as_dict().items()}
    if request.data_length is not None:
        data = data_of(hit, request.data_length)
        record["data"] = None if data is None else data.hex()
    if request.stack:
        stack = hit.stack()
        record["stack"] = [
            {"address": f"{frame.address:#x}", "symbol": frame.symbol, "module": frame.module}
            for frame in stack.frames
        ]
        if stack.cut is not None:
            record["stack_cut"] = stack.cut
    return record


def _line(record: dict[str, object]) -> str:
    return _compact(record) + "\n"


def _probe(probe: ProbeSummary) -> dict[str, object]:
    record: dict[str, object] = {"hits": probe.hits, "missed": probe.missed}
    if probe.filtered is not None:
        record["filtered"] = probe.filtered
    if probe.unreturned is not None:
        record["unreturned"] = probe.unreturned
    if probe.sites:
        record["sites"] = {site.name: _site(site) for site in probe.sites}
    return record


def _site(site: SiteSummary) -> dict[str, int]:
    record = {"hits": site.hits, "missed": site.missed}
    if site.unreturned is not None:
        record["unreturned"] = site.unreturned
    return record
