"""Tracers that die of something else than a SIGKILL: the program goes on all the same.

Each is in the midst of hits of several threads when that happens. More deaths inside of a handler
are in test_tracer_death.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.build import TARGETS, build_target
from tests.support.doomed import UNHARMED, altered, assert_whole_again
from tests.support.procfs import descendants, status_fields, thread_ids, wait_until
from tests.support.target import Target, parse_report, start_target
from tests.support.tracers import Tracers, tracers

_CGROUPS = Path("/sys/fs/cgroup")
_LIMIT = 96 << 20


@pytest.fixture(scope="module")
def started() -> Iterator[Tracers]:
    with tracers() as made:
        yield made


@pytest.fixture
def target() -> Iterator[Target]:
    with start_target(build_target("doomed.c"), "2") as made:
        yield made


def assert_unharmed(target: Target) -> None:
    assert_whole_again(target)
    ended = target.finish()
    assert ended.report == UNHARMED
    assert ended.events == ("exited 0",)


_PRELUDE = """
import ctypes, faulthandler, os, resource, signal, sys, threading, time
class Hot:
    def __init__(self, engine, specs=("hot_00*",)):
        self.probes = [engine.probe(spec, lambda hit: hit.registers.rip) for spec in specs]
    def wait(self):
        while sum(probe.hits for probe in self.probes) < 200:
            time.sleep(0.001)
"""

# -- its own code ends it, or what comes from outside

_KILLED = 128
_EXIT_IN_A_THREAD = """
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
os._exit(5)
"""
_EXIT_AGAIN_AND_AGAIN = """
signal.signal(signal.SIGALRM, lambda *_: sys.exit(6))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
time.sleep(100)
"""
_HANDLER_THAT_STAYS = """
reached = threading.Event()
engine.probe("hot_000", lambda hit: (reached.set(), time.sleep(1000)))
reached.wait()
"""
# Python's end waits for the handler, until the user has enough.
_ERROR_THEN_CTRL_C = """
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.05)
raise RuntimeError("of the test")
"""
_MEMORY_IS_REFUSED = """
resource.setrlimit(resource.RLIMIT_AS, (1, 1))
while True:
    hits.append(bytearray(1 << 16))
"""
_NO_READER = """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
read_end, write_end = os.pipe()
os.close(read_end)
os.write(write_end, b"x")
"""
_DEATHS = {
    "exception": ("raise RuntimeError('of the test')", 1),
    "exception inside of its with": ("with engine: raise RuntimeError('of the test')", 1),
    "exception in a thread, then its end": (_EXIT_IN_A_THREAD, 5),
    "sys.exit": ("sys.exit(7)", 7),
    # Also while it lets go, which it then cannot. Python's end may take the handler out first.
    "sys.exit again and again": (_EXIT_AGAIN_AND_AGAIN, None),
    "Ctrl-C": ("signal.raise_signal(signal.SIGINT)", _KILLED + signal.SIGINT),
    "os._exit": ("os._exit(3)", 3),
    "os.abort": ("os.abort()", _KILLED + signal.SIGABRT),
    "fatal error": ("ctypes.pythonapi.Py_FatalError(b'of the test')", _KILLED + signal.SIGABRT),
    "SIGSEGV that faulthandler reports": (
        "faulthandler.enable(); ctypes.string_at(0)",
        _KILLED + signal.SIGSEGV,
    ),
    # It reads the frames of a thread that runs, and now and then dies of that itself (SIGSEGV).
    "faulthandler's time limit": (
        "faulthandler.dump_traceback_later(0.001, exit=True); time.sleep(100)",
        None,
    ),
    "exec": ("os.execv('/bin/sh', ['sh', '-c', 'exit 9'])", 9),
    "MemoryError": (_MEMORY_IS_REFUSED, 1),
    "no descriptor left": (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); open('/dev/null')",
        1,
    ),
    "SIGHUP": ("os.kill(os.getpid(), signal.SIGHUP)", _KILLED + signal.SIGHUP),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", _KILLED + signal.SIGTERM),
    "SIGPIPE": (_NO_READER, _KILLED + signal.SIGPIPE),
    "exception, and then Ctrl-C, while a handler never returns": (
        _HANDLER_THAT_STAYS + _ERROR_THEN_CTRL_C,
        None,
    ),
    "SIGTERM while a handler never returns": (
        _HANDLER_THAT_STAYS + "os.kill(os.getpid(), signal.SIGTERM)",
        _KILLED + signal.SIGTERM,
    ),
}


@pytest.mark.parametrize("death", _DEATHS)
def test_it_dies_of(started: Tracers, target: Target, death: str) -> None:
    statements, status = _DEATHS[death]
    body = f"{_PRELUDE}\nhot = Hot(engine)\nengine.start()\nhot.wait()\n{statements}\n"
    tracer = started.start(target.pid, [], wait=False, body=body)
    assert started.wait(tracer) == status or status is None
    assert_unharmed(target)


_DEATHS_IN_A_HANDLER = {
    "SystemExit": ("raise SystemExit(4)", 4),
    "fatal error": _DEATHS["fatal error"],
    "end of the stack": (
        "faulthandler.enable(); faulthandler._stack_overflow()",
        _KILLED + signal.SIGSEGV,
    ),
    "exec": _DEATHS["exec"],
}


@pytest.mark.parametrize("death", _DEATHS_IN_A_HANDLER)
def test_in_a_handler_it_dies_of(started: Tracers, target: Target, death: str) -> None:
    statements, status = _DEATHS_IN_A_HANDLER[death]
    body = (
        f"{_PRELUDE}\n"
        "def die(hit):\n"
        "    hits.append(hit)\n"
        f"    if len(hits) == 200:\n        {statements}\n"
        "engine.probe('hot_00*', die)\n"
        "engine.run()\n"
    )
    tracer = started.start(target.pid, [], wait=False, body=body)
    assert started.wait(tracer) == status
    assert_unharmed(target)


def test_it_goes_on_where_the_guardian_is_killed_with_it(started: Tracers, target: Target) -> None:
    # GIVEN a tracer that is killed with all that it has started, as by memory.oom.group
    body = (
        f"{_PRELUDE}\nhot = Hot(engine)\nengine.start()\nhot.wait()\n"
        "os.write(1, b'tracing\\n')\ntime.sleep(100)\n"
    )
    tracer = started.start(target.pid, [], body=body)
    others = descendants(tracer)
    os.kill(tracer, signal.SIGSTOP)  # it starts no other guardian
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    started.kill(tracer)

    # WHEN nobody takes its traps out, THEN the program goes on by its last resort
    assert len(others) >= 2
    assert status_fields(target.pid)["TracerPid"] == "0"
    assert len(altered(target.pid)) >= 10
    ended = target.finish()
    assert ended.report == UNHARMED
    assert ended.events == ("exited 0",)


# -- a program of everyday kind


@pytest.mark.parametrize("death", ["exception", "SIGTERM", "fatal error", "os._exit"])
def test_what_python_computes_is_right_after(started: Tracers, death: str) -> None:
    program = [sys.executable, str(TARGETS / "doomed_python.py")]
    with start_target(*program) as alone:
        native = alone.finish()
    assert native.report["different"] == 0
    statements, status = _DEATHS[death]
    body = (
        f"{_PRELUDE}\n"
        "hot = Hot(engine, ('libc:malloc', 'libc:free', 'libc:realloc', 'libc:calloc'))\n"
        f"engine.start()\nhot.wait()\n{statements}\n"
    )
    with start_target(*program) as target:
        tracer = started.start(target.pid, [], wait=False, body=body)
        assert started.wait(tracer) == status
        assert_whole_again(target)
        assert target.finish() == native


# -- a program that it has launched

_LAUNCHES = (
    _PRELUDE
    + """
import ptrace_uprobes as pu
engine = pu.launch(sys.argv[2:])
hot = Hot(engine)
engine.start()
hot.wait()
hits = []
"""
)


@pytest.mark.parametrize("death", ["exception", "SIGTERM", "os.abort"])
def test_what_it_launched_goes_on(death: str) -> None:
    statements, status = _DEATHS[death]
    # With an argument more, to be found by.
    command = [str(build_target("doomed.c")), "2", f"of {os.getpid()}"]
    script = _LAUNCHES + statements
    with subprocess.Popen(
        [sys.executable, "-c", script, "-", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as tracer:
        ended = tracer.wait(30)
        assert (ended if ended >= 0 else _KILLED - ended) == status
        # We are a subreaper (tests/conftest.py): what it leaves is ours.
        pid = _process_of(command)
        wait_until("its text is restored", lambda: not altered(pid))
        assert status_fields(pid)["TracerPid"] == "0"
        assert tracer.stdin is not None
        assert tracer.stdout is not None
        tracer.stdin.close()
        assert parse_report(tracer.stdout.read().decode()) == UNHARMED
        assert os.waitpid(pid, 0)[1] == 0


def _process_of(command: Sequence[str]) -> int:
    wanted = b"".join(os.fsencode(word) + b"\0" for word in command)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                return pid
    raise AssertionError(f"no process of {command}")


# -- memory runs out


@contextlib.contextmanager
def _small_group() -> Iterator[Path]:
    """A control group (cgroups(7)) with little memory."""
    is_v2 = (_CGROUPS / "cgroup.controllers").exists()
    group = (_CGROUPS if is_v2 else _CGROUPS / "memory") / f"ptrace-uprobes-{os.getpid()}"
    limit = group / ("memory.max" if is_v2 else "memory.limit_in_bytes")
    swap = group / ("memory.swap.max" if is_v2 else "memory.memsw.limit_in_bytes")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        try:
            limit.write_text(str(_LIMIT))
        except OSError as error:
            pytest.skip(f"a control group cannot limit memory: {error}")
        with contextlib.suppress(OSError):  # where swap is not accounted for
            swap.write_text("0" if is_v2 else str(_LIMIT))
        yield group
    finally:
        deadline = time.monotonic() + 20
        while group.exists() and time.monotonic() < deadline:
            try:
                group.rmdir()  # once the last of its processes is gone
            except OSError:
                time.sleep(0.01)


def _oom_kills(group: Path) -> int:
    for name in ("memory.events", "memory.oom_control"):
        if (group / name).exists():
            fields = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(fields["oom_kill"])
    raise FileNotFoundError(group)


def test_the_kernel_kills_it_when_memory_is_short(target: Target) -> None:
    # GIVEN a tracer that shares little memory with its guardian, and whose handler takes all
    enter = 'echo $$ > "$0"/cgroup.procs && exec "$@"'
    body = (
        "def hoard(hit):\n"
        "    hits.append(b'x' * (8 << 20))\n"
        "probe = lambda spec: engine.probe(spec, hoard)\n"
    )
    with (
        _small_group() as group,
        tracers(wrapper=["/bin/sh", "-c", enter, str(group)]) as started,
    ):
        # WHEN the kernel kills it, THEN the program does not notice
        tracer = started.start(target.pid, ["hot_00*"], wait=False, body=body)
        assert started.wait(tracer) == _KILLED + signal.SIGKILL
        assert _oom_kills(group) == 1
        assert_unharmed(target)


# -- its terminal is closed, or what reads its output

_EMBEDS = f"""{_PRELUDE}
import ptrace_uprobes as pu
with pu.attach(int(sys.argv[1])) as engine:
    hot = Hot(engine)
    engine.start()
    time.sleep(100)
"""
_COMMAND = ("-m", "ptrace_uprobes", "-e", "hot_00*", "-p")


@contextlib.contextmanager
def _in_a_terminal(
    target: Target, *arguments: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A tracer in the foreground of a terminal of its own, and that terminal's other end."""
    setsid = shutil.which("setsid")
    if setsid is None:
        pytest.skip("no setsid")
    controller, terminal = pty.openpty()
    try:
        tracer = subprocess.Popen(
            [setsid, "--ctty", sys.executable, *arguments, str(target.pid)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
    finally:
        os.close(terminal)
    with open(controller, "rb", buffering=0) as file:
        try:
            wait_until("it traces", lambda: len(altered(target.pid)) >= 10)
            yield tracer, file.fileno()
        finally:
            tracer.kill()
            tracer.wait()


def _stands_still(pid: int) -> bool:
    """For a tenth of a second none of its threads has run."""

    def ran() -> list[str]:
        tids = thread_ids(pid)
        return [Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[0] for tid in tids]

    before = ran()
    time.sleep(0.1)
    return ran() == before


@pytest.mark.parametrize(
    ("arguments", "statuses"),
    [
        # The command detaches, and may still have to say that nobody reads what it writes.
        pytest.param((*_COMMAND[:-1], "--count", "-p"), (0, 1), id="the command, which counts"),
        pytest.param(_COMMAND, (0, 1), id="the command, whose lines nobody reads"),
        pytest.param(("-c", _EMBEDS), (-signal.SIGHUP,), id="a program that embeds us"),
    ],
)
def test_its_terminal_is_closed(
    target: Target, arguments: tuple[str, ...], statuses: tuple[int, ...]
) -> None:
    with (
        open(os.devnull, "rb") as null,
        _in_a_terminal(target, *arguments) as (tracer, controller),
    ):
        if arguments == _COMMAND:
            wait_until("the terminal is full", lambda: _stands_still(target.pid))
        # WHEN it is closed, and another file takes its number
        os.dup2(null.fileno(), controller)
        assert tracer.wait(20) in statuses
        # THEN the program goes on
        assert_unharmed(target)


def test_it_is_asked_to_end_while_nobody_reads_its_terminal(target: Target) -> None:
    # GIVEN a command that waits for a terminal to take its lines, and the program with it
    with _in_a_terminal(target, *_COMMAND) as (tracer, _):
        wait_until("the terminal is full", lambda: _stands_still(target.pid))
        # WHEN it is asked to end, THEN it does, and the program goes on
        tracer.terminate()
        assert tracer.wait(20) in (0, 1)  # 0 if the machine stood still, and not the program
        assert_unharmed(target)


@contextlib.contextmanager
def _writing_to(write_end: int, target: Target, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, with its traps in place; `write_end` is closed here."""
    tracer = subprocess.Popen(
        [sys.executable, *_COMMAND, str(target.pid), *options], stdout=write_end, stderr=write_end
    )
    os.close(write_end)
    try:
        wait_until("it traces", lambda: len(altered(target.pid)) >= 10)
        yield tracer
    finally:
        tracer.kill()
        tracer.wait()


@pytest.mark.parametrize("way", ["closed", "full"])
def test_nobody_reads_the_pipe_that_it_writes_to(target: Target, way: str) -> None:
    # GIVEN a command that writes to a pipe
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as reader, _writing_to(write_end, target) as tracer:
        # WHEN its reader goes away, or reads no more and it is asked to end
        if way == "closed":
            reader.close()
        else:
            wait_until("the pipe is full", lambda: _stands_still(target.pid))
            tracer.terminate()
        # THEN it ends, and the program goes on
        assert tracer.wait(20) in ((1,) if way == "closed" else (0, 1))
        assert_unharmed(target)


def test_nobody_reads_its_warnings(target: Target, tmp_path: Path) -> None:
    # GIVEN a command whose standard error is full, and whose handler gives rise to a warning
    handler, hits = tmp_path / "handler.py", tmp_path / "hits"
    handler.write_text("def fail(hit): raise ValueError\n")
    options = ("--handler", f"{handler}:fail", "-o", str(hits))
    read_end, write_end = os.pipe()
    os.write(write_end, bytes(fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ)))
    with open(read_end, "rb"), _writing_to(write_end, target, *options) as tracer:
        wait_until("it warns", lambda: _stands_still(target.pid))
        # WHEN it is asked to end, THEN it does, and the program goes on
        tracer.terminate()
        assert tracer.wait(20) == 0
        assert_unharmed(target)
    assert "interrupted, detached" in hits.read_text()
