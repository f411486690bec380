"""Runs in which the target dies at a call of ours: right before the N-th of them.

`python -m tests.support.mortal_runs PROGRAM PLUGIN` reads jobs, a JSON object a line, and answers
each with one. Every job is a fork of this process, which has imported all of the tracer already:
in it each call of the tracer's that asks something of the kernel is counted, and before the one
with the number `at` the target is made to die. Nothing of this is in the tracer itself.
"""

from __future__ import annotations

import builtins
import ctypes
import faulthandler
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any

import ptrace_uprobes as pu
from ptrace_uprobes.cli.main import main as command
from ptrace_uprobes.engine import births
from ptrace_uprobes.engine.counting import PURE_PYTHON_VARIABLE
from ptrace_uprobes.linux import memory, ptrace_calls, signal_queue
from tests.support.build import build_target
from tests.support.procfs import descendants, process_state

__all__ = ["Job", "Life", "mortal_runs"]

_PR_SET_CHILD_SUBREAPER = 36
_OF_PATHS = ("open", "listdir", "readlink", "stat")
_LIMIT = 30
"""Seconds, after which a run counts as hung."""
_ROUNDS = {"command": "2", "library": "30"}
"""Of a launched target; the library's probes come and go, and then it is let go of."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run. `end` is a signal's name, `exit_group` or `exec` (by another thread of the
    target's), or empty; `settle`: the call comes only after the death has had time to happen."""

    front: str
    """`library` or `command`."""
    how: str
    """`launch` or `attach`."""
    follow: bool
    end: str
    at: int
    settle: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """What came of a job."""

    calls: int
    """The tracer's, counted."""
    struck: str
    """The call that the death came before; empty if there were not that many."""
    hung: bool
    tracer: int
    """Its exit status, as a shell would say it."""
    stderr: str
    fault: str
    """A traceback of what is no error of the user's."""
    error: str
    """The class of the error that the library raised; empty if none."""
    broken_off: int
    """How often a PTRACE_SEIZE was."""
    reported: int | None
    """The exit status that the library told of a launched target."""
    target: int | None
    """The status of a target that was attached to, as its parent saw it."""
    last_words: bool
    """It came to its own end, whether or not something else was faster."""
    left: list[str]
    """Processes that did not end, or that a trap of ours killed."""


class _Clock:
    """Counts calls, and has the target die at one of them."""

    def __init__(self, job: Job, trigger: int, record: IO[bytes]) -> None:
        self._job = job
        self._trigger = trigger
        self._record = record
        self._numbers = itertools.count(1)
        self._kill = os.kill
        self._write = os.write
        self._opened: dict[int, str] = {}
        self.pid = 0
        self.calls = 0
        self.broken_off = 0

    def counted(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.pid and self._concerns_it(name, args):
                self._tick(name, args)
            result = function(*args, **options)
            if name == "open" and type(result) is int:
                self._opened[result] = str(args[0])
            return result

        return call

    def _concerns_it(self, name: str, args: Sequence[Any]) -> bool:
        """Files of programs and libraries stay as they are, whoever dies."""
        if name in ("pread", "pwrite"):
            return self._opened.get(args[0], "").startswith("/proc/")
        return name not in _OF_PATHS or str(args[0]).startswith("/proc/")

    def _tick(self, name: str, args: Sequence[object]) -> None:
        number = self.calls = next(self._numbers)
        if number != self._job.at or not self._job.end:
            return
        end = self._job.end
        try:
            if end in ("exit_group", "exec"):
                self._write(self._trigger, b"x" if end == "exit_group" else b"e")
            else:
                self._kill(self.pid, signal.Signals[end])
        except ProcessLookupError:
            return  # it has been reaped
        self._record.write(f"{name}{args!r:.200}".encode())
        self._record.flush()
        if self._job.settle:
            time.sleep(0.002)

    def wind_up(self) -> None:
        """Put the counter around everything; for the rest of this process's life."""
        bare = ptrace_calls.fast_ptrace
        counted = self.counted(bare, "ptrace")
        for name, module in list(sys.modules.items()):
            if name.startswith("ptrace_uprobes") and getattr(module, "fast_ptrace", None) is bare:
                module.fast_ptrace = counted  # type: ignore[attr-defined]  # as each imported it
        setattr(ptrace_calls, "_checked", self.counted(ptrace_calls._checked, "ptrace"))  # noqa: B010
        for call in (*_OF_PATHS, "waitpid", "waitid", "pread", "pwrite", "kill"):
            setattr(os, call, self.counted(getattr(os, call), call))
        builtins.open = self.counted(builtins.open, "open")
        for call in ("process_vm_readv", "process_vm_writev"):
            setattr(memory._libc, call, self.counted(getattr(memory._libc, call), call))
        for library in (births._libc, signal_queue._libc):
            setattr(library, "syscall", self.counted(library.syscall, "syscall"))  # noqa: B010
        # The package has a function of that name as well.
        taking: Any = importlib.import_module("ptrace_uprobes.engine.attach")
        spawn = taking.spawn_paused

        def spawn_and_tell(*args: Any) -> Any:
            child = spawn(*args)
            self.pid = child.pid
            return child

        taking.spawn_paused = spawn_and_tell
        seize = taking.Seizing.seize

        def seize_and_tell(seizing: Any, tid: int) -> None:
            if self.pid:
                self._tick("seize", (tid,))
            try:
                seize(seizing, tid)
            except InterruptedError:
                self.broken_off += 1
                raise

        taking.Seizing.seize = seize_and_tell


def _look(hit: pu.Hit) -> None:
    assert hit.registers.rip == hit.address
    hit.argument(0)
    hit.stack()


def _library_life(job: Job, argv: Sequence[str], pid: int) -> int | None:
    if pid:
        engine = pu.attach(pid, follow_forks=job.follow, on_warning=_ignore)
    else:
        engine = pu.launch(argv, follow_forks=job.follow, on_warning=_ignore)
    with engine:
        first = engine.probe("more_work", _look)
        engine.probe("work%return")
        late = engine.probe("libplugin:plugin_work n=%di:u64", lambda hit: hit.args)
        engine.start()
        while engine.running and not (late.hits >= 1 and first.hits >= 4):
            time.sleep(0.0005)
        first.remove()
        second = engine.probe("work", _look)
        while engine.running and second.hits < 2:
            time.sleep(0.0005)
        engine.stop()
        if not pid:
            engine.wait_command()
    return engine.result().exit_status


def _ignore(text: str) -> None:
    pass


def _command_life(job: Job, argv: Sequence[str], pid: int) -> int:
    options = ["-o", "/dev/null", "-e", "more_work n=%di:u64", "-e", "work%return"]
    options += ["-e", "libplugin:plugin_work", "--request", "stack"]
    if job.follow:
        options.append("--follow-forks")
    # Sixteen hits are more than one round.
    chosen = ["--pid", str(pid), "--max-hits", "16"] if pid else ["--", *argv]
    return command([*options, *chosen])


def _trace(job: Job, argv: Sequence[str], pid: int, clock: _Clock, answer: IO[bytes]) -> int:
    """What the tracing process does; its exit status."""
    clock.wind_up()
    clock.pid = pid
    told: dict[str, Any] = {"fault": "", "error": "", "reported": None}
    status = 0
    try:
        if job.front == "command":
            status = _command_life(job, argv, pid)
        else:
            told["reported"] = _library_life(job, argv, pid)
    except pu.UprobesError as error:
        told["error"] = type(error).__name__
    except BaseException:  # noqa: BLE001  # that none comes is what is tested
        told["fault"] = traceback.format_exc()
    told["calls"] = clock.calls
    told["broken_off"] = clock.broken_off
    answer.write(json.dumps(told).encode())
    answer.flush()
    return status


class _Runner:
    def __init__(self, program: str, plugin: str) -> None:
        self._program = program
        self._plugin = plugin

    def _start_target(self, trigger: int, words: int) -> tuple[int, int]:
        """A running target, and the descriptor whose closing ends it."""
        ready, ready_write = os.pipe()
        stdin, stdin_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(stdin_write)
            os.close(ready)
            os.dup2(stdin, 0)
            self._become_target("0", trigger, words, ready_write)
        os.close(ready_write)
        os.close(stdin)
        if os.read(ready, 1) != b"r":
            raise RuntimeError("the target did not begin")
        os.close(ready)
        return pid, stdin_write

    def _environment(self, trigger: int, words: int) -> dict[str, str]:
        for descriptor in (trigger, words):
            os.set_inheritable(descriptor, True)
        return {"TRIGGER_FD": str(trigger), "WORDS_FD": str(words), "LC_ALL": "C"}

    def _become_target(self, rounds: str, trigger: int, words: int, ready: int) -> None:
        os.set_inheritable(ready, True)
        environment = {**self._environment(trigger, words), "READY_FD": str(ready)}
        os.execve(self._program, [self._program, rounds, self._plugin], environment)

    def run(self, job: Job) -> Life:
        with (
            tempfile.TemporaryFile() as words,
            tempfile.TemporaryFile() as answer,
            tempfile.TemporaryFile() as struck,
            tempfile.TemporaryFile() as stderr,
        ):
            trigger, pull = os.pipe()
            pid, stdin = 0, -1
            if job.how == "attach":
                pid, stdin = self._start_target(trigger, words.fileno())
            tracer = os.fork()
            if tracer == 0:
                status = 70
                try:
                    if stdin >= 0:
                        os.close(stdin)
                    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
                    os.dup2(0, 1)
                    os.dup2(stderr.fileno(), 2)
                    faulthandler.dump_traceback_later(_LIMIT, exit=True, file=stderr)
                    os.environ.update(self._environment(trigger, words.fileno()))
                    argv = [self._program, _ROUNDS[job.front], self._plugin]
                    status = _trace(job, argv, pid, _Clock(job, pull, struck), answer)
                except BaseException:  # noqa: BLE001  # seen in what it wrote
                    os.write(2, traceback.format_exc().encode())
                finally:
                    os._exit(status)
            os.close(pull)
            os.close(trigger)
            traced = _shell_status(os.waitpid(tracer, 0)[1])
            if stdin >= 0:
                os.close(stdin)
            target = _wait_for(pid) if pid else None
            left = list(_leftovers())
            texts = []
            for file in (answer, struck, stderr, words):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
            told, at, said, last = texts
            facts: dict[str, Any] = {"fault": "", "error": "", "reported": None, "calls": 0}
            facts["broken_off"] = 0
            if told:
                facts.update(json.loads(told))
            return Life(
                struck=at,
                hung="Timeout (" in said,
                tracer=traced,
                stderr=said,
                target=target,
                last_words=bool(last),
                left=left,
                **facts,
            )


def _shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _wait_for(pid: int) -> int | None:
    """The status of our child; None if it does not end."""
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return _shell_status(status)
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _leftovers() -> Iterator[str]:
    """What is still below us, and does not end by itself; what a trap has killed."""
    deadline = time.monotonic() + 10
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTRAP:
                yield f"{pid} died of SIGTRAP"
        elif time.monotonic() > deadline:
            break
        else:
            time.sleep(0.0005)
    for pid in descendants(os.getpid()):
        yield f"{pid} in state {process_state(pid)}"
        os.kill(pid, signal.SIGKILL)


@contextmanager
def mortal_runs() -> Iterator[Callable[[Job], Life]]:
    """A function that has a job done, by a process of its own."""
    program = build_target("mortal.c", "-ldl")
    plugin = build_target("plugin.c", "-shared", "-fPIC", name="libplugin.so")
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(program), str(plugin)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # The calls of the loop in C cannot be counted; it makes the same ones.
        env={**os.environ, PURE_PYTHON_VARIABLE: "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    jobs, lives = process.stdin, process.stdout

    def run(job: Job) -> Life:
        jobs.write(json.dumps(asdict(job)) + "\n")
        jobs.flush()
        return Life(**json.loads(lives.readline()))

    try:
        yield run
    finally:
        jobs.close()
        process.wait()
        lives.close()


def _serve() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    runner = _Runner(*sys.argv[1:3])
    for line in sys.stdin:
        life = runner.run(Job(**json.loads(line)))
        sys.stdout.write(json.dumps(asdict(life)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
