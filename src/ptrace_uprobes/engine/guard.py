"""Keeps a guardian, and the ledger that it reads after our death."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Final

from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.linux.guardian import Guardian
from ptrace_uprobes.linux.ledger import Account
from ptrace_uprobes.linux.limits import SEE_DESCRIPTORS, SEE_LIMITS, reason
from ptrace_uprobes.sites import TrapTable
from ptrace_uprobes.tracee import AddressSpace

__all__ = ["Guard"]

_MOST_STARTS: Final = 3


class Guard:
    """What the engine has with its guardian. Touched by the tracer's thread only."""

    __slots__ = (
        "_accounts",
        "_false_starts",
        "_noted",
        "_tables",
        "_warn_once",
        "guardian",
        "had_begun",
    )

    def __init__(self, warn_once: Callable[[str], None]) -> None:
        self._warn_once = warn_once
        self.guardian: Guardian | None = None
        self._false_starts = 0
        self.had_begun = False
        """Whether the last one that `needs_another` has found ended was at work."""
        self._accounts: dict[int, Account] = {}
        """By the address spaces' numbers."""
        self._tables: dict[int, TrapTable] = {}
        """Those that tell the accounts of their traps."""
        self._noted: set[tuple[int, int]] = set()
        """Areas that the ledger has."""

    def make(self) -> Guardian | None:
        """A guardian to be started; None if there can be none, which is said once."""
        try:
            self.guardian = Guardian()
        except OSError as error:
            self._say_none(reason(error))
            return None
        self.guardian.lost = lambda: None  # told of by SIGCHLD as well
        return self.guardian

    def _say_none(self, why: str) -> None:
        self._warn_once(f"no guardian: {why}; should this process be killed, its traps stay behind")

    def needs_another(self) -> bool:
        """Whether the guardian has ended before us; it is given up then. Not if it has done so
        before it could begin, again and again: there can be none."""
        if self.guardian is None or self.guardian.is_alive:
            return False
        self.had_begun = self.guardian.has_begun
        self._false_starts += not self.had_begun
        self._give_up(self.guardian)
        if self._false_starts < _MOST_STARTS:
            return True
        self._say_none(
            f"{sys.executable} does not start, or ends at once ({SEE_DESCRIPTORS}, and who may"
            " execute it)"
        )
        return False

    def _give_up(self, guardian: Guardian) -> None:
        for table in self._tables.values():
            table.journal = None
        self._tables.clear()
        self._accounts.clear()
        self._noted.clear()
        self.guardian = None
        guardian.end()

    def get_ready(self, *, running: bool) -> None:
        """Wait for the guardian to be a process of its own, if there is one: before a thread is
        stopped, and not while it stands still for what will be written.

        `running`: also until it leaves the processors to the threads that run now.
        """
        guardian = self._started()
        if guardian is not None and running:
            guardian.wait_watching()

    def _started(self) -> Guardian | None:
        """The guardian, as a process of its own; one that cannot be started is given up."""
        guardian = self.guardian
        if guardian is None:
            return None
        guardian.wait_started()
        if guardian.failed:
            self._give_up(guardian)
            self._say_none(f"no process can be started ({SEE_LIMITS})")
        return self.guardian

    def cover(self, record: SpaceRecord) -> None:
        """Before traps are written: have the ledger be told of them, and of our areas."""
        space = record.space
        account = self._accounts.get(space.serial)
        if account is None:
            account = self._open(space)
            if account is None:
                return
            record.traps.keep_in(account)
            self._tables[space.serial] = record.traps
        for region in record.slots.regions:
            if region.mapped and (space.serial, region.start) not in self._noted:
                self._noted.add((space.serial, region.start))
                account.note_area(region.start)

    def _open(self, space: AddressSpace) -> Account | None:
        if self.guardian is None or not space.processes:
            return None
        if not space.memory.by_file:
            self._say_none(
                "/proc/PID/mem cannot be kept open (it is forbidden, or there are too few file"
                f" descriptors: {SEE_DESCRIPTORS})"
            )
            return None
        guardian = self._started()
        if guardian is None:
            return None
        pid = next(iter(space.processes)).pid
        account = guardian.open(space.serial, pid, space.memory.descriptor)
        self._accounts[space.serial] = account
        space.on_gone = lambda: self._close(space.serial)
        return account

    def _close(self, serial: int) -> None:
        account = self._accounts.pop(serial, None)
        self._tables.pop(serial, None)
        self._noted = {one for one in self._noted if one[0] != serial}
        if account is not None and self.guardian is not None:
            self.guardian.close(account)

    def cover_all(self, records: Iterable[SpaceRecord]) -> None:
        """After a new start."""
        for record in records:
            if len(record.traps):
                self.cover(record)

    def act(self) -> None:
        """Have the guardian do what we could not."""
        guardian, self.guardian = self.guardian, None
        if guardian is not None:
            guardian.act()

    def end(self) -> None:
        """Nothing is traced any more."""
        guardian, self.guardian = self.guardian, None
        self._accounts.clear()
        if guardian is not None:
            guardian.end()
