"""One probed process: its engine, its breakpoints, its log. The proposal's `uprobe_module`."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Sequence

from ptrace_uprobes.engine import Engine, attach, launch
from ptrace_uprobes.errors import CommandNotFound, EngineStopped
from ptrace_uprobes.linux.process_info import started_at
from ptrace_uprobes.probe import Probe
from ptrace_uprobes.utrace import handlers
from ptrace_uprobes.utrace.breakpoint import Breakpoint, Logger, Order, Placed
from ptrace_uprobes.utrace.log import Log
from ptrace_uprobes.utrace.refusals import AlreadyThere, NothingThere

__all__ = ["Program"]


class Program:
    """A process with an engine while it has breakpoints, and a log that outlives both.

    `lock` is held by whoever changes it. The tracing thread never takes it, so that the
    engine may be asked for anything meanwhile; registered handlers may, since they run on
    threads of their own.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started = started_at(pid)
        self.lock = threading.RLock()
        self.log = Log()
        self.forgotten = False
        """No call finds it any more."""
        self._engine: Engine | None = None
        self._breakpoints: list[Placed] = []

    @classmethod
    def launch(cls, argv: Sequence[str], orders: Sequence[Order]) -> Program:
        """A program that has its breakpoints before its first instruction."""
        if not argv:
            raise CommandNotFound("(empty)")
        engine = launch(argv)
        program = cls(engine._state.launched)
        try:
            # What the kernel runs: a script's interpreter, and not the script.
            main = os.readlink(f"/proc/{program.pid}/exe")
            for order in orders:
                vaddr = order.vaddr
                spec = vaddr if isinstance(vaddr, str) else f"{main}:{vaddr:#x}"
                program._place(engine, order, spec)
            program.log.reopen()
            engine.start()
        except BaseException:
            program._forget_breakpoints()
            try:
                engine.kill()
            except EngineStopped:
                pass  # it has died before it was let go
            raise
        program._engine = engine
        program._watch(engine, is_ours=True)
        return program

    def add(self, order: Order) -> None:
        """One breakpoint more; the first one attaches. Under `lock`."""
        engine = self._engine
        if engine is not None and not engine.running:
            self._note_end(engine)
            engine = None
        if engine is not None:
            self._place(engine, order, _as_spec(order))
            return
        engine = attach(self.pid)
        try:
            self._place(engine, order, _as_spec(order))
            self.log.reopen()
            engine.start()
        except BaseException:
            engine.stop()
            self._forget_breakpoints()
            self.log.close(None, None)
            raise
        self._engine = engine
        self._watch(engine, is_ours=False)

    def remove(self, vaddr: int | str) -> None:
        """One breakpoint less; the last one detaches. Under `lock`."""
        placed = self._find(vaddr)
        self._take_out(placed)
        engine = self._engine
        if engine is not None and not self._breakpoints:
            engine.stop()
            self._note_end(engine)

    def switch(self, vaddr: int | str, *, active: bool) -> None:
        """The breakpoint's status. Under `lock`."""
        placed = self._find(vaddr)
        for probe in placed.probes:
            probe.enabled = active
        placed.active = active

    def breakpoints(self) -> tuple[Breakpoint, ...]:
        """Under `lock`."""
        where = self._where()
        return tuple(placed.shown(self.pid, where[placed]) for placed in self._breakpoints)

    @property
    def is_idle(self) -> bool:
        """Not probed: it has ended, or has no breakpoint any more."""
        return self._engine is None or not self._engine.running

    def note_if_ended(self) -> None:
        """Let go of what a program that has ended still holds. Under `lock`."""
        if self._engine is not None and not self._engine.running:
            self._note_end(self._engine)

    # -- breakpoints

    def _find(self, vaddr: int | str) -> Placed:
        # As it was given is what it is meant by first.
        for placed in self._breakpoints:
            if placed.order.vaddr == vaddr:
                return placed
        for placed, addresses in self._where().items():
            if vaddr in addresses:
                return placed
        raise NothingThere(f"process {self.pid} has no breakpoint at {_shown(vaddr)}")

    def _where(self) -> dict[Placed, set[int]]:
        """Where each breakpoint is now: an exec may have moved it."""
        where: dict[Placed, set[int]] = {placed: set() for placed in self._breakpoints}
        engine = self._engine
        if engine is None:  # being launched: nothing has moved yet, and `explain` would run it
            for placed, addresses in where.items():
                addresses.update(site.address for site in placed.probes[0].sites)
        elif where:
            owners = {probe: placed for placed in where for probe in placed.probes}
            for row in engine.explain():
                if row.probe in owners:
                    where[owners[row.probe]].add(row.address)
        return where

    def _place(self, engine: Engine, order: Order, spec: str) -> None:
        others = self._where()
        if any(
            order.vaddr == placed.order.vaddr or order.vaddr in addresses
            for placed, addresses in others.items()
        ):
            raise self._taken(order)
        taken = set().union(*others.values())
        handler = handlers.borrow(order.name) if order.name is not None else None
        placed = Placed(order, [], handler)
        try:
            # The predefined handlers first: they log what the other one may change.
            if order.logs:
                placed.probes.append(engine.probe(spec, Logger(order, self.log)))
                self._check_alone(order, placed.probes[0], taken)
            if handler is not None:
                placed.probes.append(engine.probe(spec, handler.function, blocking=True))
                self._check_alone(order, placed.probes[0], taken)
        except BaseException:
            self._take_out(placed)
            raise
        self._breakpoints.append(placed)

    def _check_alone(self, order: Order, probe: Probe, taken: set[int]) -> None:
        """Two ways to write one address are one breakpoint."""
        if not taken.isdisjoint(site.address for site in probe.sites):
            raise self._taken(order)

    def _taken(self, order: Order) -> AlreadyThere:
        return AlreadyThere(f"process {self.pid} has a breakpoint at {_shown(order.vaddr)} already")

    def _take_out(self, placed: Placed) -> None:
        try:
            for probe in placed.probes:
                probe.remove()
        finally:
            if placed in self._breakpoints:
                self._breakpoints.remove(placed)
            if placed.handler is not None:
                handlers.give_back(placed.handler)
                placed.handler = None

    def _forget_breakpoints(self) -> None:
        for placed in self._breakpoints:
            if placed.handler is not None:
                handlers.give_back(placed.handler)
        self._breakpoints.clear()

    # -- the end

    def _watch(self, engine: Engine, *, is_ours: bool) -> None:
        def watch() -> None:
            try:
                engine.run()  # until nothing is traced any more
            except BaseException:  # noqa: BLE001  # a fault of ours: kept in the engine's result
                pass
            with self.lock:
                self._note_end(engine)
            if is_ours:
                _reap(self.pid, engine)

        threading.Thread(target=watch, name=f"ptrace-uprobes-watch-{self.pid}", daemon=True).start()

    def _note_end(self, engine: Engine) -> None:
        if self._engine is not engine:
            return
        self._engine = None
        self._forget_breakpoints()
        status, failure = None, None
        try:
            status = engine.result().exit_status
        except BaseException as error:  # noqa: BLE001  # raised in the reader's thread
            failure = error
        self.log.close(status, failure)


def _as_spec(order: Order) -> str:
    return order.vaddr if isinstance(order.vaddr, str) else f"{order.vaddr:#x}"


def _shown(vaddr: int | str) -> str:
    return vaddr if isinstance(vaddr, str) else f"{vaddr:#x}"


def _reap(pid: int, engine: Engine) -> None:
    """Take the end of a launched program, which goes on after we have let go of it.

    Not by waitpid: that would take the stops meant for an engine that probes it again.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        pass  # it is reaped already
    else:
        select.select([descriptor], [], [])
        os.close(descriptor)
    engine.wait_command()
