"""Adding a probe: to what runs already, and to what may be at its end, in an exec, or busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.engine.in_place import is_in_place
from ptrace_uprobes.engine.loop import Tracer
from ptrace_uprobes.engine.nonlocal_exits import WATCHED
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.engine.semaphores import has_semaphore
from ptrace_uprobes.engine.state import record_of
from ptrace_uprobes.errors import EngineStopped, NoThreadToUse, UnreadableElf, UprobesError
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.probe import Probe, ProbeHost
from ptrace_uprobes.symbols.resolve import explain_missing, resolve
from ptrace_uprobes.tracee import AddressSpace

__all__ = ["ProbeAdder"]

_PATIENCE = 2.0
_MOMENT = 0.002
_LONGEST_EXEC = 10.0
"""Seconds from where an exec drops the old memory to its report, with a machine under load."""


class ProbeAdder:
    """On the tracer's thread; `host` acts on what the probes that it makes are asked for."""

    __slots__ = ("_host", "_state", "_tracer")

    def __init__(self, tracer: Tracer, host: ProbeHost) -> None:
        self._tracer = tracer
        self._state = tracer.state
        self._host = host

    def add(self, probe: Probe) -> None:
        """Plant a probe wherever its place is now, and see to what comes later. Raises what
        `Engine.probe` does, and has undone it then."""
        state = self._state
        if not state.processes:
            raise EngineStopped
        if probe.is_return:
            self._watch_nonlocal_exits()
        state.probes.append(probe)
        added = [one for one in state.probes if one.hidden or one is probe]
        state.adding.add(probe)
        state.has_semaphores = state.has_semaphores or has_semaphore(probe)
        try:
            for space in state.spaces():
                self._patiently(space, lambda space: self._look_and_plant(space, probe))
            if probe.pending:
                self._check_pending(probe)
            for space in state.spaces():
                self._patiently(space, lambda space: self._follow(space, added))
        except BaseException:
            probe.removed = True
            state.probes.remove(probe)
            with self._tracer.still():
                self._tracer.planter.refresh_probe(probe)
            raise
        finally:
            state.adding.discard(probe)

    def _watch_nonlocal_exits(self) -> None:
        """Return probes have to know of longjmp and its like."""
        state = self._state
        if any(probe.hidden for probe in state.probes):
            return
        for name in WATCHED:
            hidden = Probe(parse_definition(name), None, self._host, blocking=False, hidden=True)
            state.probes.append(hidden)
            for space in state.spaces():
                try:
                    self._tracer.planter.plant(space, [hidden], strict=False)
                except (TraceeGone, NoThreadToUse):
                    continue  # it ends, or execs, or is busy: then it is planted anew

    def _look_and_plant(self, space: AddressSpace, probe: Probe) -> None:
        planter = self._tracer.planter
        if self._state.frozen:
            planter.plant(space, [probe], strict=True)
            return
        prepared = planter.prepare(space, [probe])
        with self._tracer.still(space):
            planter.plant_prepared(space, [probe], prepared)

    def _follow(self, space: AddressSpace, added: Sequence[Probe]) -> None:
        libraries, record = self._tracer.libraries, record_of(space)
        # Of the others that has been asked when they were added: there may be thousands.
        if not any(libraries.may_appear_later(record, probe) for probe in added):
            return
        if libraries.is_watched(record):
            libraries.follow(record)
            return
        # What came or went since the last look nobody has told of, and more may until there is a
        # trap that does.
        with self._tracer.still(space):
            libraries.follow(record)

    def _patiently(self, space: AddressSpace, act: Callable[[AddressSpace], None]) -> None:
        """Do what may find the program at its end, in an exec, or busy."""
        begun = time.monotonic()
        while True:
            try:
                act(space)
            except UprobesError as error:
                # It ends, or execs: then it is planted anew when that is reported, and whatever
                # was found of it meanwhile says nothing. Or it waits for a vfork child: then it
                # is soon told of.
                self._tracer.serve_pending()
                if not space.processes:
                    return
                waited = time.monotonic() - begun
                if is_in_place(record_of(space)):
                    if not isinstance(error, (TraceeGone, NoThreadToUse)):
                        raise
                    if waited > _PATIENCE:
                        if len(self._state.spaces()) == 1:
                            raise
                        return
                elif waited > _LONGEST_EXEC:
                    raise
                time.sleep(_MOMENT)
            else:
                return

    def _check_pending(self, probe: Probe) -> None:
        """A name that is nowhere now: wait for it, or say that it is unknown."""
        records = [record_of(space) for space in self._state.spaces()]
        reasons = []
        for record in records:
            reason = self._hopeless(record, probe)
            if reason is None:
                return
            reasons.append(reason)
        if reasons:
            raise reasons[0]

    def _hopeless(self, record: SpaceRecord, probe: Probe) -> UprobesError | None:
        spec = probe.definition.place
        if (record.deferred or not record.relocated) and resolve(spec, record.modules):
            return None  # an IFUNC whose target is not known yet
        problem = self._tracer.planter.problems.get(probe)
        reason = problem or explain_missing(spec, record.modules)
        if spec.module is not None:
            here = any(module.matches(spec.module) for module in record.modules)
            unreadable = isinstance(reason, UnreadableElf)
            if here or unreadable or not self._tracer.libraries.can_load_more(record):
                return reason
            if not record.starting:
                self._state.warn_once(f"{reason}; {spec.text} waits for it to be loaded")
            return None
        return None if record.starting else reason
