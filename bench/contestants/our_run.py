"""`python -m bench.contestants.our_run WORK MECHANISM PLACE TRACER_CPU PROGRAM [ARGUMENT...]`.

One probed run of PROGRAM, as a process of its own like any other tool's. WORK is what is done at
each hit of PLACE, one of `WORK`. A CPU of -1 leaves the tracer where it is; the target sees to
itself.
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

_Prepare = Callable[[pu.Engine, str, Sink], pu.Probe]
_arguments_sum = 0


def _empty(hit: pu.Hit) -> None:
    pass


def _registers(hit: pu.Hit) -> None:
    _ = hit.registers


def _argument(hit: pu.Hit) -> None:
    global _arguments_sum
    _arguments_sum += hit.argument(0)


def _stack(hit: pu.Hit) -> None:
    hit.stack()


def _fetchargs(engine: pu.Engine, place: str, sink: Sink) -> pu.Probe:
    spec = f"{place} value=%di:u64 name=+0(%si):string turn=%dx:u32 caller=$stack0"
    format_hit = TextFormat().hit_formatter(parse_definition(spec))

    def write(hit: pu.Hit) -> None:
        sink.write(format_hit(hit))

    return engine.probe(spec, write)


WORK: dict[str, _Prepare] = {
    "count": lambda engine, place, sink: engine.probe(place),
    "handler": lambda engine, place, sink: engine.probe(place, _empty),
    "registers": lambda engine, place, sink: engine.probe(place, _registers),
    "argument": lambda engine, place, sink: engine.probe(place, _argument),
    "fetchargs": _fetchargs,
    "filter": lambda engine, place, sink: engine.probe(
        f"{place} value=%di:u64", _empty, filter="value > 1000000000"
    ),
    "return": lambda engine, place, sink: engine.probe(f"{place}%return", _empty),
    "stack": lambda engine, place, sink: engine.probe(place, _stack),
}


def main(arguments: list[str]) -> int:
    work, mechanism, place, tracer_cpu, *argv = arguments
    with (
        tempfile.NamedTemporaryFile() as output,
        Sink.open(output.name) as sink,
        pu.launch(argv, mechanism=mechanism) as engine,
    ):
        if int(tracer_cpu) >= 0:
            # The thread that makes all ptrace calls exists by now: it is to move too.
            for tid in map(int, os.listdir("/proc/self/task")):
                os.sched_setaffinity(tid, {int(tracer_cpu)})
        probe = WORK[work](engine, place, sink)
        result = engine.run()
    print("mechanisms", *result.mechanisms)
    print("hits", probe.hits + probe.filtered)
    print("sum", _arguments_sum)
    return 1 if result.exit_status is None else result.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
