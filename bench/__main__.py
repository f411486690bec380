"""`python -m bench [NAME...]`: run all measurements, or those named."""

from __future__ import annotations

import importlib
import sys

from bench.machine import describe

MEASUREMENTS = ("plan_shares", "cost_per_hit", "planting", "lookup", "memory", "stacks")


def main(arguments: list[str]) -> int:
    names = [word for word in arguments if not word.startswith("-")] or list(MEASUREMENTS)
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(f"no measurement {unknown[0]!r}; there are: {', '.join(MEASUREMENTS)}")
        return 2
    print(describe())
    for name in names:
        print(f"\n== {name} ==", flush=True)
        importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
