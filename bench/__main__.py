"""`python -m bench [--quick] [-k NAME] [PYTEST-OPTION...]`: measure, then write the report.

Results go to bench-results/TIME.json, in pytest-benchmark's format, and the report made of them to
bench-results/TIME/. Nothing of a run outlives it: no process, no probe in the kernel.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.build import cache_dir

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
        return _fail(f"cannot write {results}: {error.strerror}")
    with open(cache_dir() / "bench.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            results.unlink()
            return _fail("another run measures on this machine, and each would disturb the other")
        print(describe(), flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
            return _measure(arguments, results, Path(temporary) / "results.json")


def _measure(arguments: list[str], results: Path, taken: Path) -> int:
    """Results are taken in a temporary place: a disk that is full by then must not cost them."""
    measure = [sys.executable, "-m", "pytest", str(_HERE), "-q", "-rs", "-p", "no:cacheprovider"]
    options = [f"--benchmark-json={taken}", f"--benchmark-columns={_COLUMNS}"]
    try:
        status = _wait([*measure, *options, *arguments])
    finally:
        remove_our_events()
    if not taken.exists() or taken.stat().st_size == 0:
        results.unlink(missing_ok=True)
        return _fail("no results were written")
    try:
        shutil.copyfile(taken, results)
    except OSError as error:
        results.unlink(missing_ok=True)  # a part of it
        kept = Path(tempfile.gettempdir()) / f"ptrace-uprobes-bench-{results.name}"
        shutil.copyfile(taken, kept)
        _report(kept)
        return _fail(f"cannot write {results}: {error.strerror}; the results are in {kept}")
    written = _report(results)
    return status or written


def _report(results: Path) -> int:
    """Beside the results, also of a run with failures: it says what is missing."""
    command = [sys.executable, "-m", "bench.report", str(results)]
    return _wait([*command, "--output", str(results.with_suffix(""))])


def _fail(why: str) -> int:
    print(f"bench: error: {why}", file=sys.stderr)
    return 1


def _wait(command: list[str]) -> int:
    """Its exit status. It is told of what is to end us, cleans up, and is waited for; in a session
    of its own, so that a Ctrl-C does not come twice."""
    running: list[subprocess.Popen[bytes]] = []
    asked = False

    def relay(number: int, frame: object) -> None:
        # As SIGTERM: in the background of a script SIGINT is ignored, in the child too.
        nonlocal asked
        asked = True
        for process in running:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, relay)
    process = subprocess.Popen(command, cwd=_HERE.parent, start_new_session=True)
    running.append(process)
    if asked:
        process.terminate()
    return process.wait()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    # What is timed from its start on, ours and others', starts from compiled files, as what is
    # installed does; some containers forbid those.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.exit(main(sys.argv[1:]))
