"""One trial: a workload with a probe on every instruction of functions that it executes."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.every_instruction.code import CodeRange, code_ranges
from tests.every_instruction.workloads import Workload
from tests.support.probed import ProbedRun, run_plain, run_probed

__all__ = ["Trial", "executed_functions", "run_trial"]

_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONHASHSEED": "0"}
_REASON: Final = re.compile(r"\): (.*)$")
_UNPLANTED: Final = 0.02


@dataclass(slots=True)
class Trial:
    """What came of it."""

    functions: int
    instructions: int
    refused: Counter[str]
    executed: int
    hits: int
    missed: int
    seconds: float
    differs: list[str] = field(default_factory=list)
    """How the run differs from one without probes: empty if it does not."""


def _spec(path: Path, address: int) -> str:
    return f"{path}:{address:#x}"


def _run(
    workload: Workload, argv: list[str], specs: list[str], folder: Path, mechanism: str
) -> ProbedRun:
    return run_probed(
        argv,
        specs,
        env={**_ENVIRONMENT, "HOME": str(folder)},
        stdin=workload.stdin,
        cwd=folder,
        mechanism=mechanism,
        allow_refusals=True,
        limit=1500,
    )


def executed_functions(
    workload: Workload,
    folder: Path,
    *,
    largest: int,
    most_calls: int = 40,
    sample: int | None = None,
    seed: int = 0,
) -> list[CodeRange]:
    """The functions of at most `largest` bytes that the workload calls `most_calls` times at most.

    Found by probes on their entries: which functions are chosen is no matter of right or wrong.
    """
    argv = workload.command(folder)
    path = workload.probed_file(argv[0])
    ranges = list(code_ranges(path, largest))
    if sample is not None and len(ranges) > sample:
        ranges = random.Random(seed).sample(ranges, sample)
    entries = {_spec(path, found.start): found for found in ranges}
    probed = _run(workload, argv, list(entries), folder, "auto")
    return [entries[spec] for spec, hits in probed.hits.items() if 0 < hits <= most_calls]


def run_trial(workload: Workload, chosen: list[CodeRange], folder: Path, mechanism: str) -> Trial:
    """Probe every instruction of the chosen functions, and compare with a run without probes."""
    argv = workload.command(folder)
    path = workload.probed_file(argv[0])
    specs = [_spec(path, address) for found in chosen for address in found.instructions]
    plain = run_plain(
        argv, env={**_ENVIRONMENT, "HOME": str(folder)}, stdin=workload.stdin, cwd=folder
    )
    begun = time.monotonic()
    probed = _run(workload, argv, specs, folder, mechanism)
    reasons = Counter(
        match[1] if (match := _REASON.search(text)) else text for text in probed.refused
    )
    trial = Trial(
        functions=len(chosen),
        instructions=len(specs) - len(probed.refused),
        refused=reasons,
        executed=sum(hits > 0 for hits in probed.hits.values()),
        hits=sum(probed.hits.values()),
        missed=sum(probed.missed.values()),
        seconds=time.monotonic() - begun,
    )
    for name in ("status", "stdout", "stderr"):
        with_probes, without = getattr(probed.outcome, name), getattr(plain, name)
        if with_probes != without:
            trial.differs.append(f"{name}: {without!r} without, {with_probes!r} with probes")
    if trial.missed:
        trial.differs.append(f"{trial.missed} hits were missed")
    if len(probed.refused) > len(specs) * _UNPLANTED:
        trial.differs.append(f"{len(probed.refused)} of {len(specs)} instructions were refused")
    if trial.executed < len(chosen):
        trial.differs.append(f"only {trial.executed} instructions were hit")
    return trial
