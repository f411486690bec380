"""`python -m bench.report RESULTS.json --output FOLDER`: the report of a run, with its plots.
`python -m bench.report RESULTS.json --compare OTHER.json`: whether two runs agree.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench.report.compare import comparison
from bench.report.document import write_report
from bench.report.results import BadResults, read_results

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("results", type=Path, help="JSON of `python -m bench`")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, help="folder for benchmarks.md and benchmarks/")
    what.add_argument("--compare", type=Path, help="another run's JSON")
    chosen = parser.parse_args(arguments)
    try:
        results = read_results(chosen.results)
        if chosen.compare is not None:
            _say(comparison(results, read_results(chosen.compare)))
            return 0
        chosen.output.mkdir(parents=True, exist_ok=True)
        document = chosen.output / "benchmarks.md"
        write_report(results, document, chosen.output / "benchmarks")
        _say(f"report: {document}")
    except BadResults as error:
        return _failed(str(error))
    except _NobodyListens as error:
        return _failed(f"standard output: {error}")
    except OSError as error:
        # Of a write that fails, the kernel tells no name.
        return _failed(f"{error.filename or chosen.output}: {error.strerror or error}")
    return 0


class _NobodyListens(Exception):
    """Standard output takes no more."""


def _say(text: str) -> None:
    if sys.stdout is None:  # closed before we began: `>&-`
        raise _NobodyListens("closed")
    try:
        print(text, flush=True)
    except OSError as error:
        # What is still buffered would fail again, with a traceback, at the interpreter's end.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise _NobodyListens(error.strerror or str(error)) from error


def _failed(why: str) -> int:
    print(f"bench.report: error: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
