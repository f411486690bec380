"""`python -m bench [--quick] [-k NAME] [PYTEST-OPTION...]`: measure, then write the report.

Results go to bench-results/TIME.json, in pytest-benchmark's format, and the report made of them to
bench-results/TIME/. Nothing of a run outlives it: no process, no probe in the kernel.
"""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path

from bench.contestants.kernel_uprobe import remove_our_events
from bench.machine import describe

_HERE = Path(__file__).resolve().parent
_COLUMNS = "median,iqr,rounds"


def main(arguments: list[str]) -> int:
    folder = _HERE.parent / "bench-results"
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
    results = folder / f"{stamp}.json"
    try:
        folder.mkdir(exist_ok=True)
        results.touch()
    except OSError as error:
        print(f"bench: error: cannot write {results}: {error.strerror}", file=sys.stderr)
        return 1
    print(describe(), flush=True)
    measure = [sys.executable, "-m", "pytest", str(_HERE), "-q", "-rs", "-p", "no:cacheprovider"]
    options = [f"--benchmark-json={results}", f"--benchmark-columns={_COLUMNS}"]
    try:
        status = _wait([*measure, *options, *arguments])
    finally:
        remove_our_events()
    if results.stat().st_size == 0:
        results.unlink()
        print("bench: error: no results were written", file=sys.stderr)
        return status or 1
    report = [sys.executable, "-m", "bench.report", str(results), "--output", str(folder / stamp)]
    return status or _wait(report)


def _wait(command: list[str]) -> int:
    """Its exit status. A Ctrl-C is for it too: it cleans up, and is waited for."""
    process = subprocess.Popen(command, cwd=_HERE.parent)
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
