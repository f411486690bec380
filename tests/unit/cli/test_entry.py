"""Until the command takes over, Ctrl-C ends it as it ends any program."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from ptrace_uprobes import __main__ as entry


@pytest.fixture(autouse=True)
def disposition() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (signal.default_int_handler, signal.SIG_DFL),
        (signal.SIG_DFL, signal.SIG_DFL),
        (signal.SIG_IGN, signal.SIG_IGN),
    ],
)
def test_ctrl_c_raises_nothing_before_the_command_begins(
    given: signal.Handlers, found: signal.Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def command() -> int:
        seen.append(signal.getsignal(signal.SIGINT))
        return 3

    monkeypatch.setattr("ptrace_uprobes.cli.main.main", command)
    signal.signal(signal.SIGINT, given)
    assert entry.main() == 3
    assert seen == [found]
