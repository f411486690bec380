"""`python -m fuzz.files`: damaged files for some minutes, and a table of what became of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from fuzz.files.bounded import bounded
from fuzz.files.mutations import MUTATIONS, mutated
from fuzz.files.originals import originals
from fuzz.files.readers import read_everything


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a directory for the files that failed")
    parser.add_argument("--kind", choices=sorted(MUTATIONS), action="append")
    parser.add_argument("--original", action="append")
    arguments = parser.parse_args()
    kinds = arguments.kind or list(MUTATIONS)
    sources = [o for o in originals() if not arguments.original or o.name in arguments.original]
    print(f"files to damage: {', '.join(o.name for o in sources)}", flush=True)
    files: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    largest: dict[str, int] = {}
    failures: Counter[str] = Counter()
    end = time.monotonic() + arguments.seconds
    seed = arguments.seed
    with tempfile.TemporaryDirectory(prefix="fuzz-files-") as folder:
        path = Path(folder) / "hostile"
        while time.monotonic() < end:
            for source in sources:
                for kind in kinds:
                    if time.monotonic() > end:
                        break
                    data = mutated(kind, seed, source.data, source.layout)
                    path.unlink(missing_ok=True)
                    path.write_bytes(data)
                    verdict = bounded(
                        partial(read_everything, path, seed, source.names, source.loads)
                    )
                    files[kind] += 1
                    slowest[kind] = max(slowest.get(kind, 0), verdict.seconds)
                    largest[kind] = max(largest.get(kind, 0), verdict.peak)
                    if not verdict.is_failure:
                        outcomes[verdict.outcome] += 1
                        continue
                    if not failures[verdict.outcome]:
                        print(
                            f"FAILED {source.name!r} {kind} {seed}: {verdict.outcome}", flush=True
                        )
                        if arguments.keep is not None:
                            arguments.keep.mkdir(exist_ok=True)
                            (arguments.keep / f"{source.name}-{kind}-{seed}").write_bytes(data)
                    failures[verdict.outcome] += 1
            seed += 1
    print(f"\n{'kind':24}{'files':>8}{'slowest':>10}{'memory':>10}")
    for kind in kinds:
        peak = f"{largest.get(kind, 0) >> 20} MiB"
        print(f"{kind:24}{files[kind]:8}{slowest.get(kind, 0):8.1f} s{peak:>10}")
    print(f"{'all':24}{sum(files.values()):8}   seeds {arguments.seed}-{seed - 1}")
    print("outcomes:", ", ".join(f"{name} {count}" for name, count in outcomes.most_common()))
    for text, count in failures.most_common():
        print(f"failed {count} times: {text}")
    print("failures:", sum(failures.values()))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
