"""The kinds of rounds that a soak is made of: each attaches, counts, lets go, and reconciles."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import ptrace_uprobes as pu
from tests.soak.books import Books, total
from tests.soak.member import CHILDLESS, KINDS, LIMIT, PLUGIN, Member, Wrong
from tests.soak.watchdog import describe_hang
from tests.support.build import build_target
from tests.support.command import COMMAND
from tests.support.elf_tools import functions, instruction_addresses
from tests.support.probed import run_probed
from tests.support.procfs import altered_text, wait_until
from tests.support.target import parse_report

__all__ = ["ROUNDS", "Fleet", "Round"]

_NOISE: Final = signal.SIGRTMIN
_IN_FLIGHT: Final = 16
"""Threads of one member that may be between a trap and the count behind it."""
_MECHANISMS: Final = ("auto", "auto", "boost", "step", "emulate")

Fleet = dict[str, Member]


@dataclass(frozen=True, slots=True)
class Round:
    """What one round works with."""

    fleet: Fleet
    random: Random
    books: Books

    def some(self, *, most: int, kinds: tuple[str, ...] = KINDS) -> list[Member]:
        """A few members."""
        chosen = self.random.sample(kinds, self.random.randint(1, min(most, len(kinds))))
        return [self.fleet[kind] for kind in chosen]

    def attach(self, members: list[Member], *, follow_forks: bool) -> pu.Engine:
        """An engine on them."""
        self.books.done["attaches"] += len(members)
        return pu.attach(
            [member.pid for member in members],
            follow_forks=follow_forks,
            mechanism=self.random.choice(_MECHANISMS),
            colocate=self.random.choice(("off", "off", "on")),
            on_warning=self.books.warn,
        )

    def disturb(self, members: list[Member], seconds: float, act: Callable[[], object]) -> None:
        """Signals and stops for the members, and now and then `act`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            member = self.random.choice(members)
            what = self.random.random()
            if what < 0.5:
                for _ in range(self.random.randint(1, 20)):
                    os.kill(member.pid, _NOISE)
                self.books.done["signals sent"] += 1
            elif what < 0.6:
                os.kill(member.pid, signal.SIGSTOP)
                time.sleep(self.random.random() * 0.005)
                os.kill(member.pid, signal.SIGCONT)
                self.books.done["stops sent"] += 1
            elif what < 0.8:
                act()
            time.sleep(self.random.random() * 0.01)


def _ignore(hit: pu.Hit) -> None:
    """A handler that only looks."""
    _ = hit.registers.rip, hit.argument(0), hit.comm


def gated(round_: Round) -> None:
    """Probed while nothing is called, opened, disturbed, closed: each count is exact."""
    random, books = round_.random, round_.books
    members = round_.some(most=4)
    childless = all(member.kind in CHILDLESS for member in members)
    follow = random.random() < 0.7
    engine = round_.attach(members, follow_forks=follow)
    exact = ["own_work"]
    if follow or childless:
        exact += ["work", "on_signal", "faulting"]
    truth_of: dict[pu.Probe, str] = {}
    try:
        for name in exact:
            handler = random.choice((None, None, _ignore))
            blocking = handler is not None and random.random() < 0.3
            truth_of[engine.probe(name, handler, blocking=blocking)] = name
        if follow:
            truth_of[engine.probe("doomed")] = "doomed"
        if any(member.kind == "maps" for member in members):
            truth_of[engine.probe(f"{PLUGIN}:plugin_work")] = "plugin_work"
        if "work" in exact and random.random() < 0.4:
            program = members[0].program
            for address in instruction_addresses(program, functions(program)["work"]):
                truth_of[engine.probe(f"{program}:{address:#x}")] = "work"
        engine.start()

        before = total(members)
        for member in members:
            member.open()
        churned: list[pu.Probe] = []

        def churn() -> None:
            if churned and random.random() < 0.6:
                probe = random.choice(churned)
                if random.random() < 0.5:
                    probe.enabled = not probe.enabled
                else:
                    probe.remove()
                    churned.remove(probe)
                    books.done["probes removed"] += 1
            else:
                spec = random.choice(("work", "own_work", "call", "libc:waitpid", "libc:usleep"))
                churned.append(engine.probe(spec, random.choice((None, _ignore))))
                books.done["probes added"] += 1

        round_.disturb(members, 0.05 + 0.5 * random.random(), churn)
        for member in members:
            member.noise()
        after = total(members)
    finally:
        engine.stop()
    books.add_probes(truth_of)
    books.add_members(before, after)
    for probe, name in truth_of.items():
        counted = probe.hits + probe.missed
        truth = after[name] - before[name]
        if name == "doomed":
            most = after["announced"] - before["announced"]
            books.compare(f"{probe!r} of {members}", counted, truth, most)
        else:
            books.compare(f"{probe!r} of {members}", counted, truth)
        if probe.handler_errors:
            raise Wrong(f"the handler of {probe!r} failed {probe.handler_errors} times")


def hot(round_: Round) -> None:
    """Attached to and let go of amidst its calls: each thread's hits have no gap."""
    member = round_.fleet["threads"]
    seen: dict[int, list[int]] = {}

    def note(hit: pu.Hit) -> None:
        seen.setdefault(hit.tid, []).append(hit.argument(0))

    member.open()
    at_first = member.word("work")
    wait_until("it works", lambda: member.word("work") > at_first + 100, LIMIT)
    outer = member.word("work")
    engine = round_.attach([member], follow_forks=False)
    try:
        probe = engine.probe("work", note)
        engine.start()
        inner = member.word("work")
        round_.disturb([member], 0.3 * round_.random.random(), lambda: None)
        inner = member.word("work") - inner
    finally:
        engine.stop()
    outer = member.word("work") - outer
    member.noise()
    round_.books.add_probes([probe])
    counted = probe.hits + probe.missed
    round_.books.compare("hits amidst", counted, inner - _IN_FLIGHT, outer + _IN_FLIGHT)
    for tid, numbers in seen.items():
        for one, other in itertools.pairwise(numbers):
            if other not in (one + 1, 0):  # 0: a new thread with an old one's number
                raise Wrong(f"thread {tid} called {one}, then {other}: the calls between are lost")


def killed(round_: Round) -> None:
    """A member is killed amidst its hits; the engine ends, and what it counted is what was."""
    random = round_.random
    kind = random.choice(KINDS)
    member = round_.fleet[kind]
    engine = round_.attach([member], follow_forks=True)
    try:
        probes = {name: engine.probe(name) for name in ("work", "own_work", "on_signal")}
        engine.start()
        before = total([member])
        member.open()
        round_.disturb([member], 0.2 * random.random(), lambda: None)
        os.kill(member.pid, signal.SIGKILL)
        member.killed()
        # Its children live on until their own ends, and call what is probed.
        wait_until("all of it has ended", lambda: not engine.running, 60)
    finally:
        engine.stop()
    after = total([member])
    round_.books.done["members killed"] += 1
    round_.books.add_probes(probes.values())
    round_.books.add_members(before, after)
    for name, probe in probes.items():
        counted, truth = probe.hits + probe.missed, after[name] - before[name]
        round_.books.compare(f"{probe!r} of a killed {member!r}", counted, truth, truth + 16)
    member.close()
    round_.fleet[kind] = Member(kind, random.getrandbits(60))


def commanded(round_: Round) -> None:
    """The command attaches, counts, and is ended by a signal."""
    random, books = round_.random, round_.books
    members = round_.some(most=2, kinds=("threads", "forks", "vforks", "signals", "crashes"))
    names = ("work", "own_work", "on_signal", "faulting")
    pids = [word for member in members for word in ("--pid", str(member.pid))]
    specs = [word for name in names for word in ("-e", name)]
    with tempfile.NamedTemporaryFile(prefix="soak-") as output:
        options = ["-f", "--count", "--format", "jsonl", "-o", output.name]
        mechanism = ["--mechanism", random.choice(_MECHANISMS)]
        command = subprocess.Popen(
            [*COMMAND, *pids, *options, *mechanism, *specs],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
        try:
            # Traps are written while all threads of all members stand still, then these go on.
            for member in members:
                wait_until(
                    "the command has planted its probes",
                    lambda member=member: (
                        len(_traps(member)) >= len(names)  # type: ignore[misc]
                        or command.poll() is not None
                    ),
                    LIMIT,
                )
            if command.poll() is not None:
                raise Wrong(f"the command ended by itself: {command.communicate()[1]}")
            before = total(members)
            for member in members:
                member.open()
            round_.disturb(members, 0.3 * random.random(), lambda: None)
            for member in members:
                member.noise()
            after = total(members)
            number = random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            command.send_signal(number)
            books.done["commands signalled"] += 1
            _, errors = command.communicate(timeout=LIMIT)
        except (TimeoutError, subprocess.TimeoutExpired):
            describe_hang(f"the command on {members}")
            command.send_signal(signal.SIGABRT)  # which has it tell its Python stacks
            raise Wrong(f"the command hung: {command.communicate()[1]}") from None
        finally:
            if command.poll() is None:
                command.kill()
                command.communicate()
        records = [json.loads(line) for line in Path(output.name).read_text().splitlines()]
    # Members handle SIGTRAP themselves, which the command has to say; all else is wrong.
    said = [line for line in errors.splitlines() if "no safety net: the program" not in line]
    if command.returncode != 0 or said:
        raise Wrong(f"{number!r} ended the command with {command.returncode}: {said}")
    books.done["attaches"] += len(members)
    books.add_members(before, after)
    counts = records[-1]["probes"]
    for name in names:
        counted = counts[name]["hits"] + counts[name]["missed"]
        books.hits += counts[name]["hits"]
        books.done["probes"] += 1
        books.compare(f"the command's {name} of {members}", counted, after[name] - before[name])


def _traps(member: Member) -> list[object]:
    # It may be at the dynamic linker's work, between a look at its mappings and one at its memory.
    with contextlib.suppress(OSError, ValueError):
        return [where for *where, _, seen in altered_text(member.pid) if seen == 0xCC]
    return []


_LAUNCHED: Final = (
    ("forks.c", ("tree", "3"), ("work", "parent_work"), 11),
    ("forks.c", ("vfork", "6"), ("work", "parent_work"), 11),
    ("forks.c", ("spawn", "3"), ("work", "parent_work"), 11),
    ("forks.c", ("chain", "5"), ("work", "parent_work"), 11),
    ("forks.c", ("thread-chain", "4"), ("work", "parent_work"), 11),
    ("forks.c", ("daemon", "4"), ("work", "parent_work"), 11),
    ("forks.c", ("shared-space", "6"), ("work", "parent_work"), 11),
    ("forks.c", ("killed", "8"), ("work", "parent_work"), 11),
    ("threads.c", ("6", "150"), ("shared", "brief", "on_timer", "own_0", "own_5"), 0),
    ("storm.c", ("500",), ("hot", "on_signal"), 0),
)


def launched(round_: Round) -> None:
    """A family is started under an engine and followed to its end."""
    source, arguments, specs, status = round_.random.choice(_LAUNCHED)
    probed = run_probed(
        [build_target(source), *arguments],
        specs,
        follow_forks=True,
        mechanism=round_.random.choice(_MECHANISMS),
    )
    round_.books.done["launches"] += 1
    round_.books.done["probes"] += len(specs)
    round_.books.hits += sum(probed.hits.values())
    report = parse_report(probed.outcome.stdout.decode())
    if probed.outcome.status != status or report.get("unexpected") or report.get("strange_rips"):
        raise Wrong(f"{source} {arguments}: {probed.outcome}")
    for spec in specs:
        counted = probed.hits[spec] + probed.missed[spec]
        round_.books.compare(f"{spec} of {source} {arguments}", counted, report[spec])


def replaced(round_: Round) -> None:
    """A member ends by itself, in or out of sight, and another takes its place."""
    kind = round_.random.choice(KINDS)
    member = round_.fleet[kind]
    if round_.random.random() < 0.5:
        engine = round_.attach([member], follow_forks=True)
        try:
            probe = engine.probe("work")
            engine.start()
            before = member.word("work")
            member.open()
            time.sleep(0.05)
            member.end()
        finally:
            engine.stop()
        counted = probe.hits + probe.missed
        round_.books.compare(f"work of an ending {member!r}", counted, member.word("work") - before)
        round_.books.add_probes([probe])
    else:
        member.end()
    member.close()
    round_.fleet[kind] = Member(kind, round_.random.getrandbits(60))


ROUNDS: Final[tuple[tuple[Callable[[Round], None], int], ...]] = (
    (gated, 50),
    (hot, 15),
    (killed, 10),
    (commanded, 5),
    (launched, 12),
    (replaced, 8),
)
"""Each kind of round and its weight."""
