"""`Engine`: what users of the library hold."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

from ptrace_uprobes.definition.condition_text import parse_filter
from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.engine import attach as taking
from ptrace_uprobes.engine.adding import ProbeAdder
from ptrace_uprobes.engine.detach import detach_all
from ptrace_uprobes.engine.results import Result, SitePlan
from ptrace_uprobes.engine.state import EngineState, Options, record_of
from ptrace_uprobes.engine.tracing_thread import TracingThread, running_threads
from ptrace_uprobes.errors import (
    EngineStopped,
    NoSuchProcess,
    UprobesError,
    UsageError,
)
from ptrace_uprobes.fetching.fetcher import compile_fetcher
from ptrace_uprobes.fetching.layout import Layout
from ptrace_uprobes.linux.child import kill_quietly
from ptrace_uprobes.linux.placement import Placement
from ptrace_uprobes.linux.process_info import read_status
from ptrace_uprobes.probe import Handler, Probe
from ptrace_uprobes.ssol.plan import Mechanism
from ptrace_uprobes.symbols.resolve import explain_missing

__all__ = ["Engine", "Result", "SitePlan", "attach", "launch"]


def _warn_on_stderr(text: str) -> None:
    sys.stderr.write(f"ptrace-uprobes: warning: {text}\n")
    sys.stderr.flush()


@functools.cache
def _let_go_at_exit() -> None:
    """An interpreter that ends with probes in place would leave its traps behind.

    Registered once, not for each engine: nothing takes an entry of atexit's out of its list.
    """
    atexit.register(_stop_all)


def _stop_all() -> None:
    with contextlib.ExitStack() as stack:
        for thread in running_threads():
            stack.callback(thread.let_go)


def _is_our_child(pid: int) -> bool:
    try:
        return read_status(pid).ppid == os.getpid()
    except NoSuchProcess:
        return False


def _options(follow_forks: bool, mechanism: str, colocate: str) -> Options:
    if mechanism not in ("auto", "emulate", "boost", "step"):
        raise UsageError(f"unknown mechanism {mechanism!r}: one of auto, emulate, boost, step")
    if colocate not in ("auto", "on", "off"):
        raise UsageError(f"unknown colocate {colocate!r}: one of auto, on, off")
    preferred = None if mechanism == "auto" else Mechanism(mechanism)
    return Options(follow_forks, preferred, colocate)


def launch(
    argv: Sequence[str],
    *,
    follow_forks: bool = False,
    mechanism: str = "auto",
    colocate: str = "off",
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    on_warning: Callable[[str], None] = _warn_on_stderr,
) -> Engine:
    """Start `argv` and hold it before its first instruction, until `Engine.run` or `start`.

    Raises `CommandNotFound`, `CommandNotExecutable`, `NotPermitted`, `UnsupportedTracee`.
    """
    engine = Engine(_options(follow_forks, mechanism, colocate), on_warning)
    engine._launch(list(argv), env, cwd)
    return engine


def attach(
    pid: int | Iterable[int],
    *,
    follow_forks: bool = False,
    mechanism: str = "auto",
    colocate: str = "off",
    on_warning: Callable[[str], None] = _warn_on_stderr,
) -> Engine:
    """Trace running processes, all threads of each; they go on running.

    Raises `NoSuchProcess`, `NotPermitted`, `AlreadyTraced`, `UnsupportedTracee`.
    """
    engine = Engine(_options(follow_forks, mechanism, colocate), on_warning)
    engine._attach([pid] if isinstance(pid, int) else list(pid))
    return engine


class Engine:
    """Processes that are traced and the probes in them. Made by `launch` and `attach`."""

    def __init__(self, options: Options, on_warning: Callable[[str], None]) -> None:
        self.warnings: list[str] = []
        """What has been warned of, in order."""

        def warn(text: str) -> None:
            self.warnings.append(text)
            on_warning(text)

        self._state = EngineState(options, warn)
        self._thread = TracingThread(self._state)
        self._thread.on_limit = lambda: self._let_go(
            "max_hits" if self._state.failure is None else "interrupted"
        )
        self._thread.rescue = lambda: detach_all(self._thread.tracer)
        self._thread.let_go = lambda: self._stop("interrupted")
        self._tracer = self._thread.tracer
        self._adder = ProbeAdder(self._tracer, self)
        self._ended = "exited"
        self._missing: dict[Probe, UprobesError] = {}
        self._probes: list[Probe] = []

    # -- beginning

    def _attach(self, pids: Sequence[int]) -> None:
        if not pids:
            raise UsageError("no process to attach to")

        def begin() -> None:
            try:
                for pid in pids:
                    taking.attach(self._tracer, pid)
            except BaseException:
                if self._state.processes:
                    detach_all(self._tracer)
                raise
            self._colocate()
            if any(_is_our_child(pid) for pid in self._state.processes):
                # The embedding program may well wait for its child, and take our stops then.
                self._thread.watch_for_thieves()

        self._begin(begin)

    def _begin(self, first: Callable[[], None]) -> None:
        self._thread.start(first)
        _let_go_at_exit()

    def _launch(self, argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | None) -> None:
        def begin() -> None:
            taking.launch(self._tracer, argv, env, cwd)
            self._colocate()

        self._begin(begin)

    def _colocate(self) -> None:
        state = self._state
        crowded = any(len(process.threads) > 1 for process in state.processes.values())
        wanted = state.options.colocate
        if wanted == "on" or (wanted == "auto" and not crowded):
            state.placement = Placement(next(iter(state.threads)))
            state.placement.take(0)
            for tid in list(state.threads):
                state.placement.take(tid)

    # -- probes

    def probe(
        self,
        spec: str,
        handler: Handler | None = None,
        *,
        blocking: bool = False,
        filter: str | None = None,  # noqa: A002  # the kernel's word for it, and --filter's
    ) -> Probe:
        """Add a probe; it counts, and runs `handler(hit)` if there is one.

        `spec` is a definition in any of the three notations of docs/definitions.md, `filter` an
        expression over what it records: hits of which it is not true are not delivered.

        Without a handler it is also a decorator. `blocking`: the handler runs on a thread of
        its own and may sleep; only the thread that hit waits. A place that is not loaded yet
        is pending. Raises `BadSpec`, `BadFilter`, `SymbolNotFound`, `BadAddress`,
        `InstructionRefused`.
        """
        definition = parse_definition(spec)
        condition = None if filter is None else parse_filter(filter)
        # Compiled for each place when it is planted; this is to refuse it before that.
        compile_fetcher(
            definition.fetchargs,
            condition,
            is_return=definition.is_return,
            layout=Layout(),
            filter_text=filter or "",
        )
        probe = Probe(
            definition,
            handler,
            self,
            blocking=blocking,
            condition=condition,
            filter_text=filter or "",
        )
        self._thread.call(lambda: self._add(probe))
        return probe

    def _add(self, probe: Probe) -> None:
        self._adder.add(probe)
        self._probes.append(probe)

    def set_enabled(self, probe: Probe, enabled: bool) -> None:
        """For `Probe.enabled`."""

        def act() -> None:
            if probe.enabled != enabled and not probe.removed:
                with self._tracer.still():
                    probe.mark_enabled(enabled)
                    self._forget_calls(probe)
                    self._tracer.planter.refresh_probe(probe)

        self._thread.call(act)

    def set_handler(self, probe: Probe, handler: Handler | None) -> None:
        """For `Probe` as a decorator."""

        def act() -> None:
            probe.handler = handler
            self._tracer.planter.refresh_probe(probe)

        self._thread.call(act)

    def remove_probe(self, probe: Probe) -> None:
        """For `Probe.remove`."""

        def act() -> None:
            if not probe.removed:
                with self._tracer.still():
                    probe.removed = True
                    self._state.probes.remove(probe)
                    self._forget_calls(probe)
                    self._tracer.planter.refresh_probe(probe)

        self._thread.call(act)

    def _forget_calls(self, probe: Probe) -> None:
        if probe.is_return:
            self._tracer.returns.probe_out(probe, list(self._state.threads.values()))

    @property
    def pid(self) -> int | None:
        """The launched command's; None if processes were attached to."""
        return self._state.launched or None

    @property
    def probes(self) -> list[Probe]:
        return list(self._probes)

    # -- running

    def start(self) -> None:
        """Write the traps, let a launched program go, and return at once."""
        self._thread.call(self._go)

    @property
    def running(self) -> bool:
        """Probes hold their traps and the tracees run."""
        return self._state.live and not self._thread.ended

    def _go(self) -> None:
        if self._tracer.done:
            raise EngineStopped
        if not self._state.live:
            self._state.live = True
            with self._tracer.still():
                self._tracer.planter.go_live()
        if self._state.frozen:
            self._tracer.thaw()

    def run(self, timeout: float | None = None, max_hits: int | None = None) -> Result:
        """Let the program go and wait until it ends, `timeout` seconds have passed,
        `max_hits` hits were delivered, or `interrupt` is called; then nothing is traced."""
        self._thread.check_process()
        if self._thread.is_current():
            raise UsageError("run() cannot be called from a handler: the engine runs already")
        if max_hits is not None and max_hits <= 0:
            raise UsageError("max_hits must be at least 1")
        if not self._thread.ended:
            try:
                self._state.max_hits = max_hits or 0
                self.start()
                if not self._thread.wait(timeout):
                    self._stop("timeout")
            except EngineStopped:
                pass
            except BaseException:
                self._stop("interrupted")
                raise
        return self.result()

    def stop(self) -> Result:
        """Detach: the program goes on without us."""
        self._thread.check_process()
        self._stop("stopped")
        return self.result()

    def interrupt(self) -> None:
        """Have `run` detach and return. From any thread, or from a signal handler."""
        self._thread.check_process()
        self._thread.post(lambda: self._let_go("interrupted"))

    def _stop(self, why: str) -> None:
        if self._thread.ended:
            return
        try:
            self._thread.call(lambda: self._let_go(why))
        except EngineStopped:
            pass
        if not self._thread.is_current():
            self._thread.wait(None)

    def _let_go(self, why: str) -> None:
        if self._state.current is not None:
            # A handler has asked: its thread is in the middle of its hit.
            self._thread.post(lambda: self._let_go(why))
            return
        if not self._tracer.done:
            self._ended = why
            self._note_missing()
            detach_all(self._tracer)

    def _note_missing(self) -> None:
        for space in self._state.spaces():
            for probe in self._probes:
                if probe.pending and not probe.removed:
                    record = record_of(space)
                    self._missing[probe] = explain_missing(probe.definition.place, record.modules)

    # -- results

    def result(self) -> Result:
        """What the run has come to so far."""
        failure = self._thread.failure or self._state.failure
        if failure is not None:
            raise failure
        not_found = {
            probe: self._missing.get(probe) or self._never_seen(probe)
            for probe in self._probes
            if probe.pending and not probe.removed
        }
        return Result(
            exit_status=self._state.exit_status,
            ended=self._ended,
            hits={probe: probe.hits for probe in self._probes},
            missed={probe: probe.missed for probe in self._probes},
            mechanisms=dict(self._tracer.planter.mechanisms),
            not_found=not_found,
        )

    def explain(self) -> list[SitePlan]:
        """How each place of each probe is served, or why it is not.

        A launched program that has not been let go is run up to its entry point first, for its
        libraries to be loaded, and held there.
        """
        if self._thread.call(self._to_entry):
            while not self._tracer.libraries.entry_reached.wait(0.05):
                if self._thread.ended:
                    raise self._state.failure or EngineStopped()
        rows = self._thread.call(self._tracer.planter.explain)
        return [
            SitePlan(
                probe=row.probe,
                address=row.address,
                code=row.plan.code,
                instruction=row.plan.instruction.text if row.plan.instruction else "(bad)",
                mechanism=row.plan.mechanism.value,
                reason=row.reason,
                slot=row.slot,
                label=row.label,
                module=row.module,
                definition=row.definition,
                file_offset=row.file_offset,
            )
            for row in rows
        ]

    def _to_entry(self) -> bool:
        state = self._state
        if not (state.launched and state.frozen) or self._tracer.libraries.entry_reached.is_set():
            return False
        record = record_of(state.processes[state.launched].space)
        if not self._tracer.libraries.watch_entry(record):
            return False
        self._tracer.thaw()
        return True

    def kill(self) -> None:
        """End a launched program, for instance after `explain`, instead of letting it go on."""
        self._thread.check_process()
        if self._state.launched and not self._thread.ended:
            kill_quietly(self._state.launched, signal.SIGKILL)
            try:
                self._thread.call(self._let_die)
            except EngineStopped:
                pass  # it has ended already
            self._thread.wait(None)

    def _let_die(self) -> None:
        if self._state.frozen:
            self._tracer.thaw()

    def wait_command(self) -> int | None:
        """After a detach: wait until the launched program ends; gives its exit status."""
        if not self._state.launched or not self._thread.ended:
            return None
        if self._state.exit_status is None:
            try:
                # One that was killed while it was let go may yet stop on its way out.
                while os.WIFSTOPPED(status := os.waitpid(self._state.launched, 0)[1]):
                    pass
            except ChildProcessError:
                return None
            self._state.note_exit(self._state.launched, status)
        return self._state.exit_status

    @staticmethod
    def _never_seen(probe: Probe) -> UprobesError:
        return UprobesError(f"no module that was loaded has {probe.spec}")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._thread.is_forked:
            self._stop("stopped")
