"""`python -m bench.attached_run PID < SPECS`: probes in a process that runs already.

A tracer that has imported no more than a user's would. SPECS are lines, each a probe that counts.
It prints one JSON line when all traps are written, and another when the process has ended.
"""

from __future__ import annotations

import json
import sys

import ptrace_uprobes as pu

__all__: list[str] = []


def _kilobytes(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields[field].split()[0])


def main(pid: int, specs: list[str]) -> None:
    at_start = _kilobytes("VmRSS")
    with pu.attach(pid) as engine:
        probes = [engine.probe(spec) for spec in specs]
        engine.start()
        sites = len({count.address for probe in probes for count in probe.sites})
        planted = {
            "sites": sites,
            "kilobytes_at_start": at_start,
            "kilobytes": _kilobytes("VmRSS"),
            "kilobytes_at_most": _kilobytes("VmHWM"),
        }
        print(json.dumps(planted), flush=True)
        result = engine.run()
    counts = [count for probe in probes for count in probe.sites]
    ended = {
        "ended": result.ended,
        "missed": sum(result.missed.values()),
        "hits": [[count.label, count.address, count.hits] for count in counts],
    }
    print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.stdin.read().split("\n")[:-1])
