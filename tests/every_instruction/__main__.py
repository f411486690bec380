"""python -m tests.every_instruction [--only NAME,...] [--mechanisms auto,step]: the whole of it.

Prints a line for each workload and mechanism: functions with a probe on each instruction,
instructions, refusals by reason, instructions that were executed, hits, seconds, and whether
output and exit status were as without probes. Exit status 1 if any were not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.every_instruction.trial import executed_functions, run_trial
from tests.every_instruction.workloads import WORKLOADS


def main() -> int:
    """Run it as the options say."""
    parser = argparse.ArgumentParser(prog="python -m tests.every_instruction")
    parser.add_argument("--only", default="", help="names of workloads, with commas")
    parser.add_argument("--mechanisms", default="auto,step")
    parser.add_argument("--largest", type=int, default=3000, help="bytes in a function")
    parser.add_argument("--calls", type=int, default=200, help="at most, of a function")
    parser.add_argument("--functions", type=int, default=200, help="at most, of one workload")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    wrong = 0
    seen: set[tuple[Path, int]] = set()
    planted: set[tuple[Path, int]] = set()
    for workload in WORKLOADS:
        if only and workload.name not in only:
            continue
        with tempfile.TemporaryDirectory(prefix="every-") as name:
            folder = Path(name)
            path = workload.probed_file(workload.command(folder)[0])
            called = executed_functions(
                workload, folder, largest=options.largest, most_calls=options.calls
            )
            # What another workload has had comes last.
            called.sort(key=lambda found: ((path, found.start) in seen, found.start))
            chosen = called[: options.functions]
            seen.update((path, found.start) for found in chosen)
            planted.update((path, where) for found in chosen for where in found.instructions)
            for mechanism in options.mechanisms.split(","):
                trial = run_trial(workload, chosen, folder, mechanism)
                reasons = "; ".join(f"{n} {why}" for why, n in trial.refused.items()) or "none"
                print(
                    f"{path.name:20} {workload.name:8} {mechanism:5} functions {trial.functions}"
                    f" instructions {trial.instructions} hit {trial.executed} hits {trial.hits}"
                    f" in {trial.seconds:.0f} s, refused: {reasons};"
                    f" {'equal' if not trial.differs else 'DIFFERS'}",
                    flush=True,
                )
                for difference in trial.differs:
                    wrong += 1
                    print(f"    {difference[:2000]}", flush=True)
    print(f"{len(seen)} functions, {len(planted)} instructions in all; {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
