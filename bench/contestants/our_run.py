"""`python -m bench.ours KIND MECHANISM TRACER_CPU TRACEE_CPU PROGRAM [ARGUMENT...]`.

One probed run of PROGRAM's hot(), as a process of its own like the baselines. KIND is one of
`KINDS`. A CPU of -1 leaves the placement to the kernel.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable

import ptrace_uprobes as pu
from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.output.sink import Sink
from ptrace_uprobes.output.text import TextFormat

__all__: list[str] = []


def _empty(hit: pu.Hit) -> None:
    pass


def _count(engine: pu.Engine, sink: Sink) -> pu.Probe:
    return engine.probe("hot")


def _handler(engine: pu.Engine, sink: Sink) -> pu.Probe:
    return engine.probe("hot", _empty)


def _filter(engine: pu.Engine, sink: Sink) -> pu.Probe:
    return engine.probe("hot value=%di:u64", _empty, filter="value > 1000000000")


def _fetchargs(engine: pu.Engine, sink: Sink) -> pu.Probe:
    spec = "hot value=%di:u64 name=+0(%si):string turn=%dx:u32 caller=$stack0"
    format_hit = TextFormat().hit_formatter(parse_definition(spec))

    def write(hit: pu.Hit) -> None:
        sink.write(format_hit(hit))

    return engine.probe(spec, write)


def _return(engine: pu.Engine, sink: Sink) -> pu.Probe:
    return engine.probe("hot%return", _empty)


KINDS: dict[str, Callable[[pu.Engine, Sink], pu.Probe]] = {
    "count": _count,
    "handler": _handler,
    "filter": _filter,
    "fetchargs": _fetchargs,
    "return": _return,
}


def main(arguments: list[str]) -> int:
    kind, mechanism, tracer_cpu, tracee_cpu, *argv = arguments
    before = os.sched_getaffinity(0)
    if int(tracee_cpu) >= 0:
        os.sched_setaffinity(0, {int(tracee_cpu)})
    with (
        tempfile.NamedTemporaryFile() as output,
        Sink.open(output.name) as sink,
        pu.launch(argv, mechanism=mechanism) as engine,
    ):
        # The thread that makes all ptrace calls exists by now: it is to move too.
        for tid in map(int, os.listdir("/proc/self/task")):
            os.sched_setaffinity(tid, {int(tracer_cpu)} if int(tracer_cpu) >= 0 else before)
        probe = KINDS[kind](engine, sink)
        result = engine.run()
    print(f"hits {probe.hits + probe.filtered} {dict(result.mechanisms)}", file=sys.stderr)
    return 1 if result.exit_status is None else result.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
