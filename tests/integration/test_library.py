"""An engine in the background, and every way in which it can end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

import ptrace_uprobes as pu
from tests.support.build import build_target
from tests.support.let_go import UNHARMED, assert_let_go
from tests.support.procfs import (
    wait_until,
)
from tests.support.target import start_target


def _no_thread_of_ours_is_left() -> bool:
    return not any(t.name.startswith("ptrace-uprobes") for t in threading.enumerate())


# -- in the background


def test_a_program_runs_in_the_background_until_it_is_told_to_stop() -> None:
    with start_target(build_target("server.c"), "2") as target:
        # GIVEN an engine in the background
        engine = pu.attach(target.pid)
        probe = engine.probe("work")
        states = [engine.running]
        engine.start()
        states.append(engine.running)
        assert states == [False, True]

        # WHEN this thread does other things, and then has had enough
        wait_until("it is hit", lambda: probe.hits > 200)
        result = engine.stop()

        # THEN the result is what was counted, and the program goes on without us
        assert result.ended == "stopped"
        assert result.exit_status is None
        assert result.hits == {probe: probe.hits}
        assert result.missed == {probe: 0}
        assert not engine.running
        assert_let_go(target)
        assert target.finish().report == UNHARMED
    wait_until("our threads have ended", _no_thread_of_ours_is_left)


def test_a_launched_program_that_ends_in_the_background_leaves_its_status() -> None:
    engine = pu.launch([str(build_target("calls.c")), "2"])
    tick = engine.probe("tick")
    engine.start()
    wait_until("it has ended", lambda: not engine.running)
    result = engine.stop()
    assert (result.ended, result.exit_status, result.hits[tick]) == ("exited", 0, 200)
    assert engine.wait_command() == 0


def test_run_after_start_waits_for_the_end() -> None:
    with pu.launch([str(build_target("calls.c")), "2"]) as engine:
        tick = engine.probe("tick")
        engine.start()
        result = engine.run(timeout=30)
    assert (result.ended, result.exit_status, result.hits[tick]) == ("exited", 0, 200)


def test_a_launched_program_goes_on_after_we_stop() -> None:
    # GIVEN a launched program that waits for its standard input to end
    read, write = os.pipe()
    saved = os.dup(0)
    os.dup2(read, 0)
    try:
        engine = pu.launch([str(build_target("sleeper.c"))])
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(read)

    # WHEN the engine stops, and then it ends
    with engine:
        engine.probe("idle")
        engine.start()
    os.close(write)

    # THEN its status is there to be taken
    assert engine.wait_command() == 5


def test_two_engines_trace_two_processes_and_end_apart() -> None:
    with (
        start_target(build_target("server.c"), "2") as first,
        start_target(build_target("server.c"), "2") as second,
    ):
        # GIVEN an engine for each
        engines = [pu.attach(target.pid) for target in (first, second)]
        probes = [engine.probe("work") for engine in engines]
        for engine in engines:
            engine.start()
        wait_until("both are hit", lambda: all(probe.hits > 50 for probe in probes))

        # WHEN one stops
        engines[0].stop()
        assert_let_go(first)
        count, at_stop = probes[0].hits, probes[1].hits
        wait_until("the other goes on", lambda: probes[1].hits > at_stop + 100)

        # THEN the other is not concerned
        assert probes[0].hits == count
        engines[1].stop()
        assert_let_go(second)
        assert first.finish().report == UNHARMED
        assert second.finish().report == UNHARMED


def test_a_process_can_be_probed_again_by_another_engine() -> None:
    with start_target(build_target("server.c"), "2") as target:
        for _ in range(3):
            with pu.attach(target.pid) as engine:
                probe = engine.probe("work")
                assert engine.run(max_hits=5).hits[probe] == 5
        assert_let_go(target)


# -- how it ends


def test_a_keyboard_interrupt_detaches_before_it_is_raised() -> None:
    with start_target(build_target("server.c"), "2") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("work")

        # GIVEN Ctrl-C while the main thread is in run()
        def press() -> None:
            wait_until("it is hit", lambda: probe.hits > 50)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        presser = threading.Thread(target=press)
        presser.start()

        # WHEN it arrives
        with pytest.raises(KeyboardInterrupt):
            engine.run(timeout=30)
        presser.join()

        # THEN nothing of ours is left in the program
        assert not engine.running
        assert engine.result().ended == "interrupted"
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_an_exception_in_the_with_block_detaches_and_passes_on() -> None:
    with start_target(build_target("server.c"), "2") as target:

        def careless() -> None:
            with pu.attach(target.pid) as engine:
                engine.probe("work")
                engine.start()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            careless()
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_stopping_twice_and_interrupting_afterwards_is_harmless() -> None:
    with start_target(build_target("sleeper.c")) as target:
        engine = pu.attach(target.pid)
        engine.start()
        first = engine.stop()
        engine.interrupt()
        assert engine.stop() == first
        assert engine.run(timeout=1) == first
        assert_let_go(target)


USES: list[Callable[[pu.Engine, pu.Probe], object]] = [
    lambda engine, probe: engine.probe("work"),
    lambda engine, probe: engine.start(),
    lambda engine, probe: engine.explain(),
    lambda engine, probe: probe.remove(),
    lambda engine, probe: setattr(probe, "enabled", False),
    lambda engine, probe: probe(lambda hit: None),
]


def test_an_engine_that_is_used_after_its_end_says_so() -> None:
    with start_target(build_target("server.c"), "1") as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("work")
        engine.run(max_hits=10)
        for use in USES:
            with pytest.raises(pu.EngineStopped):
                use(engine, probe)
        # AND what it has counted can still be asked for
        assert engine.result().hits == {probe: 10}
        assert probe.hits == 10


def test_a_handler_can_stop_the_engine_and_the_rest_of_it_still_runs() -> None:
    with start_target(build_target("server.c"), "2") as target:
        seen: list[int] = []
        engine = pu.attach(target.pid)

        def stop(hit: pu.Hit) -> None:
            engine.stop()
            seen.append(hit.argument(0))

        probe = engine.probe("work", stop)
        result = engine.run(timeout=30)
        assert result.ended == "stopped"
        assert len(seen) == probe.hits >= 1
        assert probe.handler_errors == 0
        assert_let_go(target)
        assert target.finish().report == UNHARMED


# -- handlers that raise


def test_a_handler_that_raises_is_warned_of_once_with_its_traceback() -> None:
    warnings: list[str] = []
    with pu.launch([str(build_target("calls.c")), "2"], on_warning=warnings.append) as engine:

        @engine.probe("tick")
        def careless(hit: pu.Hit) -> None:
            raise LookupError("on purpose")

        @engine.probe("six")
        def another(hit: pu.Hit) -> None:
            raise LookupError("elsewhere")

        result = engine.run(timeout=30)

    # THEN each probe's trouble was told once, with where it was, and counted
    assert result.exit_status == 0
    assert engine.warnings == warnings
    (first,) = [text for text in warnings if "on purpose" in text]
    assert "in careless" in first
    assert len([text for text in warnings if "elsewhere" in text]) == 1
    assert (careless.hits, careless.handler_errors) == (200, 200)
    assert (another.hits, another.handler_errors) == (2, 2)


def test_a_blocking_handler_that_raises_is_warned_of_as_well() -> None:
    warnings: list[str] = []
    with pu.launch([str(build_target("calls.c")), "1"], on_warning=warnings.append) as engine:

        def careless(hit: pu.Hit) -> None:
            raise LookupError("on purpose")

        probe = engine.probe("tick", careless, blocking=True)
        result = engine.run(timeout=30)
    assert result.exit_status == 0
    assert len([text for text in warnings if "on purpose" in text]) == 1
    assert (probe.hits, probe.handler_errors) == (100, 100)
