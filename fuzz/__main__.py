"""`python -m fuzz [--bits 64|32] [--seconds N | --count N] [--seed S]`: try instructions.

Both modes, 64-bit and 32-bit code, have half of it each, unless one is named. The exit status is 1
if a plan was not faithful, and the last lines are then lines for fuzz/corpus/.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from tests.support.build import BuildFailed

from fuzz.campaign import Campaign, Disagreement, Tally
from fuzz.corpus import read_corpus
from fuzz.harness import Harness
from fuzz.mode import Mode, mode_of

_MOST_SHOWN = 40
_BOTH = (64, 32)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=(__doc__ or "").strip())
    parser.add_argument("--bits", type=int, choices=_BOTH, help="one mode alone")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: 600)")
    parser.add_argument("--count", type=int, help="how many states instead, of each mode")
    parser.add_argument("--seed", type=int, help="to try the same again")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.getrandbits(32)
    print(f"seed {seed}", flush=True)
    modes = [options.bits] if options.bits else list(_BOTH)
    wrong = 0
    for bits in modes:
        try:
            harness = Harness(mode_of(bits))
        except BuildFailed as failure:
            print(f"{bits}-bit code is left out: the compiler builds no program for it: {failure}")
            continue
        with harness:
            print(f"--- {bits}-bit code", flush=True)
            tally = _campaign(harness, seed, options.count, options.seconds / len(modes))
        wrong += len(tally.disagreements)
    return 1 if wrong else 0


def _campaign(harness: Harness, seed: int, count: int | None, seconds: float) -> Tally:
    begin = time.monotonic()
    campaign = Campaign(harness)
    campaign.run(read_corpus(harness.mode))
    if count is not None:
        campaign.run(campaign.generated(seed), count=count)
    else:
        campaign.run(campaign.generated(seed), seconds=seconds)
    report(campaign.tally, harness.mode, time.monotonic() - begin)
    return campaign.tally


def report(tally: Tally, mode: Mode, seconds: float) -> None:
    print(f"instructions   {len(tally.instructions):,} different ones of {mode.bits} bits")
    print(f"states         {tally.states:,} in {seconds:.0f} s")
    print(f"forms          {len(tally.known):,} named, {len(tally.executed):,} executed here")
    _table("runs", tally.runs)
    _table("in place each", tally.ended)
    _table("refused", tally.refused)
    _table("refused, though executed here", tally.refused_but_executed)
    _table("not the same twice in place", tally.not_the_same_twice)
    _table("tolerated", tally.tolerated)
    print(f"disagreements  {len(tally.disagreements):,}", flush=True)
    for one in one_of_each(tally.disagreements)[:_MOST_SHOWN]:
        print(f"  {one}", flush=True)


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
