"""The target dies right before any one of our calls: we end in time, in order, with its status."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product

import pytest

from tests.support.mortal_runs import Job, Life, mortal_runs

_NATURAL = 5
_STATUS = {"SIGKILL": 137, "SIGTERM": 143, "SIGSEGV": 139, "exit_group": 7, "exec": 9}
_WAYS = list(product(["command", "library"], ["launch", "attach"], [False, True]))
_SAMPLE = 6

Runs = Callable[[Job], Life]


@pytest.fixture(scope="module")
def life_of() -> Iterator[Runs]:
    with mortal_runs() as run:
        yield run


def _faults(job: Job, life: Life) -> list[str]:
    """What is wrong about the run."""
    found = []
    if life.hung:
        found.append(f"it hung: {life.stderr}")
    if life.fault or "Traceback" in life.stderr:
        found.append(f"a traceback: {life.fault or life.stderr}")
    if life.left:
        found.append(f"left behind: {life.left}")
    if any(not line.startswith("ptrace-uprobes: ") for line in life.stderr.splitlines()):
        found.append(f"it printed {life.stderr!r}")
    # Of a death that comes with its last words nobody can say which was first.
    possible = {_STATUS[job.end]} if life.struck else {_NATURAL}
    if life.last_words:
        possible.add(_NATURAL)
    if job.how == "attach":
        if life.target not in possible:
            found.append(f"the target's status was {life.target}")
        if life.tracer not in ((0, 1) if job.front == "command" else (0,)):
            found.append(f"our status was {life.tracer}")
        if life.tracer == 1 and "ptrace-uprobes: error: " not in life.stderr:
            found.append("a failure without a word")
    elif job.front == "command" and life.tracer not in possible:
        found.append(f"our status was {life.tracer}: {life.stderr}")
    elif job.front == "library" and not life.error and life.reported not in possible:
        found.append(f"the status was said to be {life.reported}")
    return [f"{job} before {life.struck}: {fault}" for fault in found]


def _number_of_calls(life_of: Runs, front: str, how: str, follow: bool) -> int:
    life = life_of(Job(front, how, follow, end="", at=0))
    assert not life.fault
    assert life.left == []
    assert not life.hung
    return life.calls


@pytest.mark.parametrize(("front", "how", "follow"), _WAYS)
def test_a_target_that_dies_before_some_of_our_calls(
    life_of: Runs, front: str, how: str, follow: bool
) -> None:
    # GIVEN how many calls a whole life takes
    calls = _number_of_calls(life_of, front, how, follow)
    chance = random.Random(f"{front} {how} {follow}")

    # WHEN the target dies before one of them, in each of the ways
    faults = []
    struck = 0
    for end in _STATUS:
        for at in chance.sample(range(1, calls), _SAMPLE):
            job = Job(front, how, follow, end, at, settle=chance.random() < 0.5)
            life = life_of(job)
            faults += _faults(job, life)
            struck += bool(life.struck)

    # THEN each run ends well
    assert faults == []
    assert struck > _SAMPLE


@pytest.mark.soak
@pytest.mark.parametrize("end", _STATUS)
@pytest.mark.parametrize(("front", "how", "follow"), _WAYS)
def test_a_target_that_dies_before_each_of_our_calls(
    life_of: Runs, front: str, how: str, follow: bool, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = _number_of_calls(life_of, front, how, follow)
    faults = []
    seen: Counter[str] = Counter()
    for at in range(1, calls + 1):
        job = Job(front, how, follow, end, at, settle=end != "SIGTERM")
        life = life_of(job)
        faults += _faults(job, life)
        seen["struck" if life.struck else "not struck"] += 1
        seen[life.error or f"status {life.tracer}"] += 1
    with capsys.disabled():
        print(f"\n{front} {how} follow={follow} {end}: {calls} calls, {dict(seen)}")  # noqa: T201
    assert faults == []


def test_an_exec_of_a_thread_while_its_sisters_are_being_seized(life_of: Runs) -> None:
    # GIVEN that an exec holds up the seizing of further threads until those that are ours have
    # ended, which they cannot without us
    faults = []
    broken_off = 0
    for at in range(4, 12):
        # WHEN a thread execs before any of the calls of an attach
        job = Job("library", "attach", follow=False, end="exec", at=at, settle=True)
        life = life_of(job)
        faults += _faults(job, life)
        broken_off += life.broken_off

    # THEN we do not wait for each other for ever
    assert faults == []
    assert broken_off > 0


def test_children_that_are_born_while_probes_are_planted_have_their_slots(life_of: Runs) -> None:
    # GIVEN a process that forks all the time, followed: a child may have been copied when a slot
    # was mapped and not yet written
    for _ in range(25):
        # WHEN it is attached to, probed and let go of
        life = life_of(Job("library", "attach", follow=True, end="", at=0))

        # THEN none of its children came to harm, which it checks itself
        assert (life.target, life.left, life.fault) == (_NATURAL, [], "")
