"""`python -m bench.report RESULTS.json --output FOLDER`: the report of a run, with its plots.
`python -m bench.report RESULTS.json --compare OTHER.json`: whether two runs agree.
"""

from __future__ import annotations

import argparse
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
            print(comparison(results, read_results(chosen.compare)))
            return 0
        chosen.output.mkdir(parents=True, exist_ok=True)
        document = chosen.output / "benchmarks.md"
        write_report(results, document, chosen.output / "benchmarks")
    except BadResults as error:
        print(f"bench.report: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"bench.report: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"report: {document}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
