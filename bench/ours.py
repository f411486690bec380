"""`python -m bench.ours KIND MECHANISM TRACER_CPU TRACEE_CPU PROGRAM [ARGUMENT...]`.

One probed run of PROGRAM's hot(), as a process of its own like the baselines. KIND is `count`
(no handler) or `handler` (an empty Python function). A CPU of -1 leaves the placement to the
kernel.
"""

from __future__ import annotations

import os
import sys

import ptrace_uprobes as pu

__all__: list[str] = []


def _empty(hit: pu.Hit) -> None:
    pass


def main(arguments: list[str]) -> int:
    kind, mechanism, tracer_cpu, tracee_cpu, *argv = arguments
    before = os.sched_getaffinity(0)
    if int(tracee_cpu) >= 0:
        os.sched_setaffinity(0, {int(tracee_cpu)})
    with pu.launch(argv, mechanism=mechanism) as engine:
        # The thread that makes all ptrace calls exists by now: it is to move too.
        for tid in map(int, os.listdir("/proc/self/task")):
            os.sched_setaffinity(tid, {int(tracer_cpu)} if int(tracer_cpu) >= 0 else before)
        probe = engine.probe("hot", _empty if kind == "handler" else None)
        result = engine.run()
    print(f"hits {probe.hits} {dict(result.mechanisms)}", file=sys.stderr)
    return 1 if result.exit_status is None else result.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
