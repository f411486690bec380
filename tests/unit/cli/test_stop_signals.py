"""Stop signals: noted while something is traced, raised while nothing is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from ptrace_uprobes.cli.stop_signals import StopRequested, StopSignals

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@pytest.fixture(autouse=True)
def dispositions() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_while_nothing_is_traced_a_signal_ends_us_at_once(number: int) -> None:
    with pytest.raises(StopRequested) as caught, StopSignals(launching=True):
        os.kill(os.getpid(), number)
    assert caught.value.number == number


@pytest.mark.parametrize("number", STOPS)
def test_while_something_is_traced_the_first_signal_calls_the_actions(number: int) -> None:
    calls: list[str] = []
    with StopSignals(launching=True) as signals, signals.deferred():
        with signals.calling(lambda: calls.append("interrupt"), lambda: calls.append("hasten")):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert calls == ["interrupt", "hasten"]
    assert signals.received == number


def test_signals_that_come_faster_than_they_are_handled_do_not_nest() -> None:
    calls: list[int] = []

    def insist() -> None:
        calls.append(1)
        for number in STOPS:
            os.kill(os.getpid(), number)

    with StopSignals(launching=True) as signals, signals.deferred(), signals.calling(insist):
        os.kill(os.getpid(), signal.SIGINT)
    assert calls == [1]


def test_a_signal_that_came_during_the_set_up_is_acted_on_after_it() -> None:
    calls: list[str] = []
    with StopSignals(launching=True) as signals, signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with signals.calling(lambda: calls.append("interrupt")):
            assert calls == ["interrupt"]


def test_afterwards_the_dispositions_are_what_they_were() -> None:
    before = {number: signal.getsignal(number) for number in STOPS}
    with StopSignals(launching=True):
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in STOPS} == before


def test_a_command_inherits_that_a_signal_is_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals(launching=True):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_background_job_that_attached_can_still_be_asked_to_end() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(StopRequested), StopSignals(launching=False):
        os.kill(os.getpid(), signal.SIGINT)


def test_under_nohup_a_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals(launching=False):
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.parametrize("number", STOPS)
def test_who_insists_does_not_kill_us_while_we_exit(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    with StopSignals(launching=True) as signals, signals.deferred():
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("number", STOPS)
def test_the_second_signal_breaks_off_only_what_may_be_given_up(number: int) -> None:
    with StopSignals(launching=True) as signals:
        with signals.deferred():
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as while the summary is written
        with pytest.raises(StopRequested), signals.abandoning():
            os.kill(os.getpid(), number)
