"""python -m tests.soak [--seconds N] [--seed N]: a mixed load, with exact books.

Each round attaches to some of a fleet of programs (threads, forks, vforks, execs, signals,
mappings, crashes, kills), probes them, and compares what was counted with what the programs
counted themselves. Exit status 0 if all was as promised, 1 if not, 3 for a hang.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
import traceback
from random import Random

from tests.soak.books import Books
from tests.soak.leaks import Leaks
from tests.soak.member import KINDS, Member, Wrong
from tests.soak.rounds import ROUNDS, Fleet, Round
from tests.soak.watchdog import Watchdog

_PATIENCE = 900.0
_LINE_EVERY = 10.0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (an hour)")
    parser.add_argument("--seed", type=int, default=None, help="of a run that is to be repeated")
    parser.add_argument("--only", help="only this kind of round")
    return parser.parse_args()


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self._seconds = options.seconds
        self._seed = seed
        self._kinds = [
            (kind, weight) for kind, weight in ROUNDS if options.only in (None, kind.__name__)
        ]
        self._books = Books()
        self._leaks = Leaks()
        self._watchdog = Watchdog(_PATIENCE)
        self._doing = ""
        self._started = time.monotonic()

    def run(self) -> list[str]:
        """What went wrong, as sentences."""
        fleet: Fleet = {}
        try:
            for number, kind in enumerate(KINDS):
                fleet[kind] = Member(kind, self._seed + number)
            self._rounds(fleet)
            for member in fleet.values():
                member.end()
        except Exception as error:  # noqa: BLE001  # the run's one report of whatever it was
            name = "" if isinstance(error, Wrong) else f"{type(error).__name__}: "
            if not isinstance(error, Wrong):
                traceback.print_exc()
            return [f"{self._doing}: {name}{error}"]
        finally:
            for member in fleet.values():
                member.close()
        return self._leaks.verdict()

    def _rounds(self, fleet: Fleet) -> None:
        said = 0.0
        for number in itertools.count():
            if time.monotonic() - self._started > self._seconds:
                return
            random = Random(f"{self._seed}/{number}")
            kind = random.choices(
                [kind for kind, _ in self._kinds], [weight for _, weight in self._kinds]
            )[0]
            self._doing = f"round {number} ({kind.__name__})"
            self._watchdog.feed(self._doing)
            self._books.done[f"rounds {kind.__name__}"] += 1
            kind(Round(fleet, random, self._books))
            for member in fleet.values():
                member.check_let_go()
            sample = self._leaks.take()
            if time.monotonic() - said > _LINE_EVERY:
                said = time.monotonic()
                print(
                    f"{said - self._started:7.0f} s  round {number}  hits {self._books.hits}"
                    f"  missed {sum(self._books.missed.values())}  fds {sample.descriptors}"
                    f"  threads {sample.threads}  objects {sample.objects}"
                    f"  rss {sample.rss >> 10} KiB",
                    flush=True,
                )

    def report(self, problems: list[str]) -> None:
        """The summary, and what went wrong at its end."""
        objects, size = self._leaks.growth()
        print(f"soak of {time.monotonic() - self._started:.0f} s, seed {self._seed}")
        print(self._books.summary())
        print(f"  growth a round: {objects:+.2f} objects, {size:+.0f} bytes")
        for problem in problems:
            print(f"WRONG: {problem}")
        print("wrong" if problems else "all reconciled, nothing leaked", flush=True)


def main() -> int:
    """Run it as the options say."""
    options = _options()
    # Under nohup the commands would inherit that SIGHUP is ignored, and rightly not end by it.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # The same for SIGINT, in the background of a script.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ended from outside, it ends its fleet too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    seed = options.seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    print(f"soak for {options.seconds:.0f} s, seed {seed}", flush=True)
    soak = Soak(options, seed)
    problems = soak.run()
    soak.report(problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
