"""The modules that a stack may lead through: more than those that probes are planted in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.linux.maps import read_maps
from ptrace_uprobes.symbols.modules import Module, modules_of

__all__ = ["LoadedModules"]

_SHARE: Final = 50
"""Looking for modules where there are none (code of a compiler that runs in the program) takes
at most one part in so many of the time."""


class LoadedModules:
    """Looks at a process's mappings again when an address lies in no module that is known."""

    def __init__(
        self,
        known_at: Callable[[int], Module | None],
        thread: Callable[[], int | None],
        read: Callable[[int, int], bytes],
    ) -> None:
        """`known_at` is asked first; `thread` gives a live thread's number; `read` raises."""
        self._known_at = known_at
        self._thread = thread
        self._read = read
        self._modules: Sequence[Module] = ()
        self._next_look = 0.0

    def module_at(self, address: int) -> Module | None:
        found = self._known_at(address)
        if found is not None:
            return found
        found = self._among_mine(address)
        if found is None and time.monotonic() >= self._next_look:
            self._look()
            found = self._among_mine(address)
            if found is not None:
                self._next_look = 0.0
        return found

    def _among_mine(self, address: int) -> Module | None:
        return next((module for module in self._modules if module.contains(address)), None)

    def _look(self) -> None:
        started = time.monotonic()
        tid = self._thread()
        if tid is not None:
            try:
                self._modules = modules_of(tid, read_maps(tid), self._read)
            except (UprobesError, OSError):
                self._modules = ()
        now = time.monotonic()
        self._next_look = now + (now - started) * _SHARE
