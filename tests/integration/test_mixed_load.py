"""What the soak has found: short loads that each of its findings once did not survive."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes.engine.births import Births
from ptrace_uprobes.engine.libraries import Libraries
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.engine.planting import Planter
from ptrace_uprobes.engine.state import record_of
from ptrace_uprobes.errors import NoThreadToUse
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.remote_syscall import RemoteCalls
from ptrace_uprobes.ssol.scratch import SlotArea
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.tracee import AddressSpace
from tests.soak.leaks import Leaks
from tests.soak.member import PLUGIN, Member
from tests.support.build import build_target
from tests.support.procfs import altered_text, process_state, wait_until
from tests.support.target import Target, start_target

_WALL = 0x40000000


@contextmanager
def _member(kind: str) -> Iterator[Member]:
    member = Member(kind, seed=1)
    try:
        yield member
    finally:
        member.close()


@contextmanager
def _stopping_and_continuing(pid: int) -> Iterator[None]:
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.0005):
            os.kill(pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        done.set()
        sender.join()


def _attach_probe_let_go(member: Member, times: int, mechanism: str = "auto") -> None:
    for _ in range(times):
        with pu.attach(member.pid, mechanism=mechanism) as engine:
            engine.probe("own_work")
            engine.start()
            engine.probe("work")


def test_a_sigtrap_of_the_programs_own_is_not_taken_for_the_end_of_a_call_made_in_it() -> None:
    # GIVEN a program whose threads send each other SIGTRAP all the time
    with _member("traps") as member:
        member.open()
        # WHEN memory is mapped into it and unmapped again and again
        _attach_probe_let_go(member, 20)
        member.noise()
        # THEN that succeeded each time, and nothing of it was left behind
        member.check_let_go()


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_a_sigcont_is_not_lost_on_a_stop_that_we_held_back(mechanism: str) -> None:
    # GIVEN a program that is stopped and at once continued, all the time
    with _member("maps") as member, _stopping_and_continuing(member.pid):
        member.open()
        # WHEN it is attached to and probed
        _attach_probe_let_go(member, 15, mechanism)
        member.noise()
    # THEN it still runs: `noise` has waited for it to do something


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_a_thread_that_is_held_just_behind_a_trap_is_at_its_hit_before_calls_are_made_in_it(
    mechanism: str,
) -> None:
    # GIVEN a program that hits all the time
    calls = 20_000
    with (
        start_target(build_target("hot_loop.c"), str(calls)) as target,
        pu.attach(target.pid, mechanism=mechanism) as engine,
    ):
        probe = engine.probe("hot")
        engine.start()
        # WHEN it is made to stand still again and again, and calls are made in it then
        made = _call_amid(engine, target)
        ended = target.finish()
        wait_until("its end is seen", lambda: not engine.running)
    # THEN each hit was one
    assert made
    assert (ended.status, ended.report["hot"]) == (0, calls)
    assert (probe.hits, probe.missed) == (calls, 0)


def test_a_thread_that_is_held_at_a_fault_has_its_signal_before_calls_are_made_in_it() -> None:
    faults = 20_000
    with (
        start_target(build_target("faulting_loop.c"), str(faults)) as target,
        pu.attach(target.pid) as engine,
    ):
        engine.probe("main")
        engine.start()
        assert _call_amid(engine, target) > 0
        ended = target.finish()
    assert (ended.status, ended.report) == (0, {"faults": faults})


def _call_amid(engine: pu.Engine, target: Target) -> int:
    """Have the program go on, have it stand still again and again, and make a call in it each time;
    gives how many there were."""
    record = record_of(engine._state.processes[target.pid].space)

    def call() -> int:
        with engine._tracer.still():
            return engine._tracer.regions.call(record, lambda remote: remote.syscall(39))

    target.go()
    made = 0
    with suppress(NoThreadToUse, pu.EngineStopped):  # it has ended
        while made < 300:
            assert engine._thread.call(call) == target.pid
            made += 1
    return made


@pytest.mark.parametrize("number", [signal.SIGTRAP, signal.SIGSTOP])
def test_a_signal_that_comes_amidst_a_call_made_in_the_program_is_the_programs(
    number: signal.Signals,
) -> None:
    # GIVEN a thread that is lent for calls of ours
    with _member("signals") as member, pu.attach(member.pid) as engine:
        record = record_of(engine._state.processes[member.pid].space)
        handled = member.word("on_signal")

        def work(remote: RemoteCalls) -> int:
            # WHEN a signal that cannot be blocked comes before a call, and SIGCONT after it
            os.kill(member.pid, number)
            first = remote.syscall(39)  # getpid
            os.kill(member.pid, signal.SIGCONT)
            return first if first == remote.syscall(39) else -1

        # THEN the calls are made
        assert engine._thread.call(lambda: engine._tracer.regions.call(record, work)) == member.pid
        # and the program gets its signal: one it handles, or a stop that is over already
        if number == signal.SIGTRAP:
            wait_until("it is handled", lambda: member.word("on_signal") == handled + 1)
        noted = member.word("signals")
        wait_until("it runs", lambda: member.word("signals") > noted)


def test_a_probe_may_be_added_at_any_moment_of_a_program_that_execs_all_the_time() -> None:
    with _member("execs") as member:
        member.open()
        with pu.attach(member.pid, follow_forks=True) as engine:
            engine.start()
            for _ in range(40):
                engine.probe("own_work").remove()
        member.noise()
        member.check_let_go()


def test_a_probe_may_be_added_at_any_moment_of_a_family_whose_children_end() -> None:
    with _member("forks") as member:
        member.open()
        with pu.attach(member.pid, follow_forks=True) as engine:
            engine.start()
            for _ in range(40):
                engine.probe("libc:usleep").remove()
        member.noise()
        member.check_let_go()


def test_an_engine_leaves_nothing_behind_in_the_process_that_embeds_it() -> None:
    with _member("threads") as member:
        _attach_probe_let_go(member, 2)
        callbacks, leaks = atexit._ncallbacks(), Leaks()
        first = leaks.take()
        _attach_probe_let_go(member, 3)
        last = leaks.take()
        assert atexit._ncallbacks() == callbacks
        assert (last.descriptors, last.threads, last.zombies) == (
            first.descriptors,
            first.threads,
            first.zombies,
        )


def test_a_child_that_is_killed_while_it_stands_in_its_first_stop_ends_nothing_but_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN a followed family, and what is written into each child before it runs
    complete = SlotArea.complete
    killed: list[int] = []

    def kill_and_complete(area: SlotArea) -> None:
        tid = area._memory.tid
        if area.regions and not killed:
            # WHEN a child is killed in that moment, and let exit as while an exec is waited for
            killed.append(tid)
            os.kill(tid, signal.SIGKILL)
            os.waitpid(tid, _WALL)
            ptrace_calls.call(ptrace_calls.CONT, tid)
            wait_until("it has no memory any more", lambda: process_state(tid) in "ZX")
            area._is_complete = False
        complete(area)

    monkeypatch.setattr(SlotArea, "complete", kill_and_complete)
    with _member("crashes") as member:
        with pu.attach(member.pid, follow_forks=True, mechanism="step") as engine:
            probe = engine.probe("own_work")
            engine.start()
            member.open()
            wait_until("a child was killed", lambda: bool(killed))
            # THEN the rest of the family is traced on
            hits = probe.hits
            wait_until("it is hit", lambda: probe.hits > hits + 10)
            member.noise()


@contextmanager
def _told_late(
    member: Member, moment: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[pu.Probe]:
    """A probe of a library that was loaded when we looked, and `moment` passed before we began to
    be told of loading."""
    look_again, follow = Planter.look_again, Libraries.follow

    def look_when_it_is_there(planter: Planter, space: AddressSpace) -> list[Module]:
        while True:
            found: list[Module] = look_again(planter, space)
            if record_of(space).rendezvous or any(module.name == PLUGIN for module in found):
                return found

    def follow_late(libraries: Libraries, record: SpaceRecord) -> None:
        moment()
        monkeypatch.undo()
        follow(libraries, record)

    with pu.attach(member.pid, on_warning=lambda text: None) as engine:
        engine.start()
        monkeypatch.setattr(Planter, "look_again", look_when_it_is_there)
        monkeypatch.setattr(Libraries, "follow", follow_late)
        yield engine.probe(f"{PLUGIN}:plugin_work")


@pytest.mark.soak  # docs/reliability.md, "known to be open": planting may find it unloaded
def test_a_library_that_is_unloaded_while_its_probe_is_planted_is_probed_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _member("maps") as member, _told_late(member, member.silence, monkeypatch) as probe:
        member.open()
        loads = member.word("loads")
        wait_until("it was loaded again", lambda: member.word("loads") > loads + 3)
        member.noise()
        assert probe.hits + probe.missed == member.word("plugin_work") > 0


def test_a_library_that_is_loaded_anew_while_its_probe_is_planted_has_its_trap_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _member("threads") as member, pu.attach(member.pid) as engine:
        # GIVEN a probe in a library, and a moment in which nobody tells of loading
        engine.start()
        follow = Libraries.follow

        def follow_late(libraries: Libraries, record: SpaceRecord) -> None:
            # WHEN the library has in it what its file has, as a new mapping of it would
            traps = record.traps.addresses()
            assert traps
            for trap in traps:
                record.space.memory.write(trap, record.traps.read(trap, 1))
            assert altered_text(member.pid) == []
            follow(libraries, record)

        monkeypatch.setattr(Libraries, "follow", follow_late)
        probe = engine.probe("libc:usleep")

        # THEN the trap is put in again
        wait_until("it is hit", lambda: probe.hits > 10)


@pytest.mark.parametrize("mechanism", ["boost", "emulate", "step"])
def test_a_vfork_child_that_waits_for_a_handler_is_let_go_of_with_its_parent(
    mechanism: str,
) -> None:
    # GIVEN a parent that cannot stop before its child is done, and a child that waits in a hit,
    # with more of them before it
    begun, over = threading.Event(), threading.Event()

    def wait(hit: pu.Hit) -> None:
        if hit.pid != member.pid and member.word("calling"):
            begun.set()
            over.wait(60)

    with _member("vforks") as member:
        engine = pu.attach(member.pid, follow_forks=True, mechanism=mechanism)
        try:
            engine.probe("call", wait, blocking=True)
            counted = engine.probe("work")
            engine.start()
            member.open()
            assert begun.wait(60)

            # WHEN we detach and do not wait for the handler
            engine.stop()
        finally:
            over.set()

        # THEN both go on, what the child hits meanwhile is counted, and all is as computed
        assert counted.hits > 0
        calls = member.word("work")
        wait_until("it works", lambda: member.word("work") > calls)
        member.noise()
        member.check_let_go()


def test_a_child_with_a_trap_that_its_parent_has_lost_while_it_forked_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN a family whose children are copied with a trap
    with _member("forks") as member, pu.attach(member.pid, follow_forks=True) as engine:
        probe, kept = engine.probe("work"), engine.probe("own_work")
        engine.start()
        copy_of = Births.copy_of
        removed = threading.Event()

        def copy_late(births: Births, space: AddressSpace, child: int) -> AddressSpace:
            # WHEN that trap is taken out of the parent before we are told of a child's birth
            if not removed.is_set() and member.word("calling"):
                probe.remove()
                removed.set()
            return copy_of(births, space, child)

        monkeypatch.setattr(Births, "copy_of", copy_late)
        member.open()
        assert removed.wait(60)

        # THEN the child does not run into it for ever
        hits = kept.hits
        wait_until("the family goes on", lambda: kept.hits > hits + 10)
        member.noise()


def test_a_program_that_is_killed_while_a_thread_of_it_execs_is_known_to_have_ended() -> None:
    for turn in range(40):
        # GIVEN a program whose threads exec, one after the other
        with _member("thread-execs") as member:
            with pu.attach(member.pid, follow_forks=True) as engine:
                engine.probe("work")
                engine.start()
                member.open()
                # WHEN it is killed, at some moment of that
                time.sleep(turn * 0.0007)
                os.kill(member.pid, signal.SIGKILL)
                member.killed()
                # THEN nobody waits for a thread that has become another
                wait_until("it is known to have ended", lambda: not engine.running, 10)
