"""`python -m bench.deep_run PROGRAM HITS FRAMES TRACER_CPU TRACEE_CPU`.

Prints what `hit.stack()` took, in nanoseconds, a line for each hit of `bottom` in PROGRAM. In a
process of its own: the first stack of a process reads tables and symbols, all others do not.
"""

from __future__ import annotations

import os
import sys
import time

import ptrace_uprobes as pu

__all__: list[str] = []


def main(program: str, hits: int, frames: int, tracer: int, tracee: int) -> int:
    took: list[int] = []
    wrong: list[str] = []

    def on_hit(hit: pu.Hit) -> None:
        started = time.perf_counter_ns()
        stack = hit.stack()
        took.append(time.perf_counter_ns() - started)
        if len(stack) != frames or stack.cut is not None:
            wrong.append(f"{len(stack)} frames, not {frames}; cut: {stack.cut}")

    # A child begins on its parent's CPUs.
    os.sched_setaffinity(0, {tracee})
    with pu.launch([program, str(hits)]) as engine:
        for tid in map(int, os.listdir("/proc/self/task")):
            os.sched_setaffinity(tid, {tracer})
        probe = engine.probe("bottom", on_hit)
        engine.run()
    if wrong or probe.handler_errors or len(took) != hits:
        print(wrong[:1], probe.handler_errors, "errors,", len(took), "hits", file=sys.stderr)
        return 1
    print(*took, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
