"""`python -m bench [--quick] [-k NAME] [PYTEST-OPTION...]`: measure, then write the report.

Results go to bench-results/TIME.json, in pytest-benchmark's format, and the report made of them to
bench-results/TIME/. Nothing of a run outlives it: no process, no probe in the kernel.
"""

from __future__ import annotations

import datetime
import os
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
        status = subprocess.call([*measure, *options, *arguments], cwd=_HERE.parent)
    except KeyboardInterrupt:
        status = 130  # pytest has had the same Ctrl-C, and says what it has done by then
    finally:
        remove_our_events()
    if results.stat().st_size == 0:
        results.unlink()
        print("bench: error: no results were written", file=sys.stderr)
        return status or 1
    report = [sys.executable, "-m", "bench.report", str(results), "--output", str(folder / stamp)]
    written = subprocess.call(report, cwd=_HERE.parent)
    return status or written


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
