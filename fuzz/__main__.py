"""`python -m fuzz [--seconds N | --count N] [--seed S]`: try instructions, tell what came of it.

The exit status is 1 if a plan was not faithful, and the last lines are then lines for
fuzz/corpus/.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from fuzz.campaign import Campaign, Disagreement, Tally
from fuzz.corpus import read_corpus
from fuzz.harness import Harness

_MOST_SHOWN = 40


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=(__doc__ or "").strip())
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: 600)")
    parser.add_argument("--count", type=int, help="how many states instead")
    parser.add_argument("--seed", type=int, help="to try the same again")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.getrandbits(32)
    print(f"seed {seed}", flush=True)
    begin = time.monotonic()
    with Harness() as harness:
        campaign = Campaign(harness)
        campaign.run(read_corpus())
        if options.count is not None:
            campaign.run(campaign.generated(seed), count=options.count)
        else:
            campaign.run(campaign.generated(seed), seconds=options.seconds)
    report(campaign.tally, time.monotonic() - begin)
    return 1 if campaign.tally.disagreements else 0


def report(tally: Tally, seconds: float) -> None:
    print(f"instructions   {len(tally.instructions):,} different ones")
    print(f"states         {tally.states:,} in {seconds:.0f} s")
    print(f"forms          {len(tally.known):,} named, {len(tally.executed):,} executed here")
    _table("runs", tally.runs)
    _table("in place each", tally.ended)
    _table("refused", tally.refused)
    _table("refused, though executed here", tally.refused_but_executed)
    _table("not the same twice in place", tally.not_the_same_twice)
    _table("tolerated", tally.tolerated)
    print(f"disagreements  {len(tally.disagreements):,}")
    for one in one_of_each(tally.disagreements)[:_MOST_SHOWN]:
        print(f"  {one}")


def _table(title: str, counts: Counter[str]) -> None:
    if counts:
        print(title)
    for name, count in counts.most_common(25):
        print(f"  {count:>9,}  {name}")


def one_of_each(found: list[Disagreement]) -> list[Disagreement]:
    first: dict[tuple[str, str], Disagreement] = {}
    for one in found:
        first.setdefault((one.text.split(" ")[0], one.way), one)
    return list(first.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
