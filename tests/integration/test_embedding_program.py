"""A program that embeds the library keeps its children, its end, and all that we borrow."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes.linux import ptrace_calls
from tests.support.build import build_target
from tests.support.let_go import UNHARMED, assert_let_go
from tests.support.probed import run_plain
from tests.support.procfs import (
    descendants,
    process_state,
    thread_ids,
    wait_until,
)
from tests.support.target import start_target


def _no_thread_of_ours_is_left() -> bool:
    return not any(t.name.startswith("ptrace-uprobes") for t in threading.enumerate())


# -- the embedding program's own children


def test_children_that_the_embedding_program_starts_meanwhile_are_its_to_wait_for() -> None:
    with start_target(build_target("server.c"), "2") as target:
        # GIVEN an engine at work
        engine = pu.attach(target.pid)
        probe = engine.probe("work")
        engine.start()
        wait_until("it is hit", lambda: probe.hits > 50)

        # WHEN this thread and another start children, and wait for them
        script = ["/bin/sh", "-c", "exit $1", "sh"]
        statuses: list[int] = []

        def elsewhere() -> None:
            statuses.extend(subprocess.call([*script, str(number)]) for number in range(10))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        children = [subprocess.Popen([*script, str(n)]) for n in range(10)]
        ends = [child.wait(30) for child in children]
        thread.join()

        # THEN each has its own status, and the engine never stopped
        assert ends == list(range(10))
        assert statuses == list(range(10))
        at_end = probe.hits
        wait_until("it is hit", lambda: probe.hits > at_end + 50)
        engine.stop()
        assert target.finish().report == UNHARMED


def test_a_helper_of_ours_that_someone_kills_is_replaced() -> None:
    # GIVEN an engine whose tracee does nothing that would wake it
    with start_target(build_target("sleeper.c")) as target:
        engine = pu.attach(target.pid)
        engine.start()

        # WHEN its helper process is killed, again and again
        for _ in range(3):
            killed = engine._state.doorbell
            os.kill(killed, signal.SIGKILL)
            wait_until("it is gone", lambda pid=killed: process_state(pid) == "X")  # type: ignore[misc]

            # THEN it hears of what this thread wants all the same
            engine.probe("idle").remove()
        assert engine.stop().ended == "stopped"
        assert_let_go(target)
        assert target.finish().status == 5


# -- the embedding program's end

SCRIPT = """
import sys
import ptrace_uprobes as pu
engine = pu.attach(int(sys.argv[1]))
probe = engine.probe("work", {handler})
engine.start()
while probe.hits < 100:
    pass
{end}
"""
ENDS = {
    "falls off the end": ("", 0),
    "exits": ("sys.exit(3)", 3),
    "raises": ("raise ZeroDivisionError", 1),
    "forgets the engine": ("del engine, probe", 0),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("handler", ["None", "lambda hit: hit.registers.rdi"])
def test_a_script_that_ends_without_stopping_leaves_the_program_as_it_was(
    end: str, handler: str
) -> None:
    with start_target(build_target("server.c"), "2") as target:
        # GIVEN a script that never says stop()
        statement, status = ENDS[end]
        script = SCRIPT.format(handler=handler, end=statement)
        run = subprocess.run(
            [sys.executable, "-c", script, str(target.pid)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            timeout=60,
            check=False,
        )

        # THEN it ends as it would, and the program goes on, clean
        assert run.returncode == status, run.stderr.decode()
        assert (run.stderr == b"") == (end != "raises")
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_a_launched_program_survives_a_script_that_ends_without_stopping(tmp_path: Path) -> None:
    # GIVEN a script that launches a program, and ends before it
    output = tmp_path / "output"
    script = """
import sys
import ptrace_uprobes as pu
engine = pu.launch([sys.argv[1], "20000"])
probe = engine.probe("tick")
engine.start()
while probe.hits < 100:
    pass
"""
    program = build_target("calls.c")
    with output.open("wb") as file:
        run = subprocess.run(
            [sys.executable, "-c", script, str(program)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=file,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (run.returncode, run.stderr) == (0, b"")

    # THEN the program goes on to its own end, with the output that it would have had
    expected = run_plain([program, "20000"]).stdout
    wait_until("it has ended", lambda: output.stat().st_size >= len(expected))
    assert output.read_bytes() == expected


SIGNALLED = """
import sys, time
import ptrace_uprobes as pu
from ptrace_uprobes.utrace import *
pid = int(sys.argv[1])
with pu.detach_on_signals():
    {start}
    print(flush=True)
    {then}
"""
STARTS = {
    "engine": "engine = pu.attach(pid); engine.probe('work', lambda hit: hit.registers)\n"
    "    engine.start()",
    "utrace": "register_handler('h', lambda hit: None)\n"
    "    utrace_addbp(pid, 'work', UTRACE_GETREGS | UTRACE_HANDLER, 'h')",
    "both": "utrace_addbp(pid, 'work', UTRACE_GETREGS)\n"
    "    other = pu.launch(['sh', '-c', 'exec sleep 60 > /dev/null 2>&1']); other.start()",
}


def _script(script: str, pid: int) -> subprocess.Popen[str]:
    """It runs, and has come so far as to print a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(pid)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    """Signals it until it ends: of one that another thread was given, Python's main thread, if it
    sleeps, hears when it wakes up."""
    for _ in range(15):
        process.send_signal(number)
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=2)
    process.kill()
    return process.communicate()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("then", ["time.sleep(60)", "while True: pass"])
def test_a_signal_that_ends_the_program_lets_go_first_if_it_was_asked_to(
    start: str, number: signal.Signals, then: str
) -> None:
    with start_target(build_target("server.c"), "2") as target:
        # GIVEN a program that probes, and asked for it
        process = _script(SIGNALLED.format(start=STARTS[start], then=then), target.pid)

        # WHEN the signal comes, from one who is impatient
        output, errors = _end(process, number)

        # THEN it dies of it as ever, and what it probed goes on
        assert (process.returncode, output, errors) == (-number, "", "")
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_in_a_reader_of_records_too_and_without_a_probe_at_once() -> None:
    with start_target(build_target("server.c"), "2") as target:
        for start, then in ((STARTS["utrace"], "for r in utrace_read(pid): pass"), ("", "")):
            sleeping = f"{then}\n    time.sleep(60)"
            process = _script(SIGNALLED.format(start=start, then=sleeping), target.pid)
            assert _end(process, signal.SIGTERM) == ("", "")
            assert process.returncode == -signal.SIGTERM
            assert_let_go(target)


def test_the_signals_are_the_programs_own_again_afterwards_and_where_it_handles_them() -> None:
    # GIVEN one that the program handles, and one that it ignores
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: None),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    }
    try:
        own = {number: signal.getsignal(number) for number in before}
        with pu.detach_on_signals():
            # THEN they stay what they are, inside and afterwards
            assert {number: signal.getsignal(number) for number in before} == own
            assert signal.getsignal(signal.SIGQUIT) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
        with pu.detach_on_signals(signal.SIGUSR1):
            assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
            assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL

            # AND a child that was forked inside dies of it at once
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
                os._exit(1)
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGUSR1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    wait_until("its thread has ended", _no_thread_of_ours_is_left)


def test_only_the_main_thread_can_ask_for_it() -> None:
    refused: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with pu.detach_on_signals():
                pass
        except pu.UsageError as error:
            refused.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])


# -- its fork children

FORKS = """
import os, sys, time
import ptrace_uprobes as pu
from ptrace_uprobes.utrace import *
engine = pu.attach(int(sys.argv[1]))
probe = engine.probe("work", {handler})
engine.start()
utrace_addbp(int(sys.argv[2]), "more_work", UTRACE_GETREGS)
log = utrace_read(int(sys.argv[2]))
while probe.hits < 100:
    pass
child = os.fork()
if child == 0:
    for call in (
        engine.start, engine.stop, engine.run, engine.interrupt, engine.kill, engine.explain,
        probe.remove, lambda: engine.probe("more_work"), lambda: setattr(probe, "enabled", False),
        lambda: next(log), lambda: utrace_rmbp(int(sys.argv[2]), "more_work"),
        lambda: utrace_addbp(int(sys.argv[2]), "work", UTRACE_GETREGS),
    ):
        try:
            call()
        except pu.UprobesError as error:
            print(type(error).__name__)
    with engine:
        sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
before = probe.hits, utrace_lsbp(int(sys.argv[2]))[0].hits
while probe.hits < before[0] + 100 or utrace_lsbp(int(sys.argv[2]))[0].hits < before[1] + 100:
    pass
"""


@pytest.mark.parametrize("handler", ["None", "lambda hit: None"])
def test_a_fork_child_has_no_engine_ends_at_once_and_its_parents_goes_on(handler: str) -> None:
    program = build_target("server.c")
    with start_target(program, "2") as target, start_target(program, "1") as other:
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                FORKS.format(handler=handler),
                *map(str, (target.pid, other.pid)),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            timeout=60,
            text=True,
            check=False,
        )
        assert (run.returncode, run.stderr) == (0, "")
        *refusals, status = run.stdout.split()
        assert refusals == ["UsageError"] * 9 + ["NothingThere"] * 2 + ["AlreadyTraced"]
        assert status == "7"
        for each in (target, other):
            assert_let_go(each)
            assert each.finish().report == UNHARMED


@pytest.mark.parametrize("blocking", [False, True])
def test_a_handler_that_forks_and_comes_back_in_the_child_ends_that_child_only(
    blocking: bool,
) -> None:
    children: list[int] = []

    def fork(hit: pu.Hit) -> None:
        if not children:
            children.append(os.fork())

    with start_target(build_target("server.c"), "2") as target:
        with pu.attach(target.pid) as engine:
            probe = engine.probe("work", fork, blocking=blocking)
            engine.start()
            wait_until("it has forked", lambda: bool(children))
            wait_until("its child has ended", lambda: process_state(children[0]) in "ZX")
            at_end = probe.hits
            wait_until("it goes on", lambda: probe.hits > at_end + 100)
        with contextlib.suppress(ChildProcessError):  # the tracing thread's own, if it forked
            os.waitpid(children[0], 0)
        assert_let_go(target)
        assert target.finish().report == UNHARMED


# -- borrowed, and given back


def test_threads_that_were_moved_to_our_cpu_have_their_own_affinity_afterwards() -> None:
    # GIVEN a server of several threads
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one CPU: there is nowhere to move to")
    with start_target(build_target("server.c"), "3") as target:
        engine = pu.attach(target.pid, colocate="on")
        probe = engine.probe("work")
        engine.start()
        wait_until("it is hit", lambda: probe.hits > 50)
        assert {len(os.sched_getaffinity(tid)) for tid in thread_ids(target.pid)} == {1}
        assert os.sched_getaffinity(0) == allowed

        # WHEN the engine stops
        engine.stop()

        # THEN all have what they had
        for tid in thread_ids(target.pid):
            assert os.sched_getaffinity(tid) == allowed
        assert target.finish().report == UNHARMED


def _what_there_is() -> tuple[list[str], int, set[int]]:
    """Descriptors, threads and descendants."""
    descriptors = sorted(os.listdir("/proc/self/fd"))
    return descriptors, threading.active_count(), set(descendants(os.getpid()))


def test_an_engine_leaves_no_descriptor_thread_or_child_behind() -> None:
    with start_target(build_target("server.c"), "2") as target:
        # GIVEN what there is after a first engine (imports, caches)
        def once() -> None:
            with pu.attach(target.pid) as engine:
                probe = engine.probe("work", lambda hit: None, blocking=True)
                engine.start()
                wait_until("it is hit", lambda: probe.hits > 3)
            wait_until("our threads have ended", _no_thread_of_ours_is_left)

        once()
        before = _what_there_is()

        # WHEN many come and go
        for _ in range(5):
            once()
        after = _what_there_is()

        # THEN there is no more of anything
        assert after == before


def test_a_launch_that_the_kernel_refuses_says_so_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN a kernel that lets nobody trace, as Yama's strictest setting or a container's filter
    real = ptrace_calls.call

    def refuse(request: int, tid: int, address: int = 0, data: int = 0) -> int:
        if request == ptrace_calls.SEIZE:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(request, tid, address, data)

    monkeypatch.setattr(ptrace_calls, "call", refuse)
    before = _what_there_is()

    # WHEN a program is launched
    with pytest.raises(pu.NotPermitted):
        pu.launch(["true"])
    wait_until("our threads have ended", _no_thread_of_ours_is_left)

    # THEN that is the reason given, and neither child nor pipe is left
    assert _what_there_is() == before


def test_a_stop_that_the_embedding_program_waits_for_is_not_lost() -> None:
    # GIVEN a probed process that is a child of ours, as with subprocess
    program = build_target("hot_loop.c")
    ready, told = os.pipe()
    go, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(start)
        os.write(told, b"r")
        os.read(go, 1)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.execv(program, [str(program), "2000"])
    os.close(go)
    os.read(ready, 1)
    engine = pu.attach(child)
    probe = engine.probe(f"{program}:hot")
    engine.start()
    os.write(start, b"g")

    # WHEN this program looks after its child, and takes stops that are the engine's
    taken = 0
    while taken < 3:
        pid, status = os.waitpid(child, os.WNOHANG)
        taken += pid == child and os.WIFSTOPPED(status)

    # THEN it goes on to its end, and each hit is counted
    result = engine.run(timeout=60)
    assert result.ended == "exited"
    assert probe.hits == 2000
    for descriptor in (ready, told, start):
        os.close(descriptor)
