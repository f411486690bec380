"""A member of the fleet: a running fleet.c, the phase it is in, and the books it keeps itself."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.soak.watchdog import describe_hang
from tests.support.build import build_target
from tests.support.doomed import altered
from tests.support.procfs import (
    process_state,
    status_fields,
    text_mappings,
    thread_ids,
    wait_until,
)
from tests.support.target import start_target

__all__ = ["CHILDLESS", "KINDS", "LIMIT", "PLUGIN", "Member", "Wrong", "plugin"]

KINDS: Final = (
    "threads",
    "forks",
    "vforks",
    "execs",
    "thread-execs",
    "signals",
    "maps",
    "crashes",
)
CHILDLESS: Final = frozenset({"threads", "execs", "thread-execs", "signals", "maps"})
"""Kinds whose every call is made by the member itself."""

PLUGIN: Final = "fleet-plugin.so"

# As in fleet.c.
_WORDS: Final = (
    *("phase", "stop", "moving", "calling", "unexpected", "strange_rips", "wrong", "random"),
    *("work", "own_work", "on_signal", "faulting", "plugin_work", "announced", "doomed"),
    *("forks", "execs", "threads", "signals", "crashes", "kills", "loads"),
    "unexpected_status",  # a child's, as a shell has it, times 1000, plus what it should have been
)
_OFFSETS: Final = {name: 8 * number for number, name in enumerate(_WORDS)}
_SILENT, _NOISE, _OPEN = 0, 1, 2
LIMIT: Final = 240.0
"""Seconds that any one wait may take, on a machine with much else to do: of two CPUs with a load
of thirty a niced process has a second in forty."""


class Wrong(Exception):
    """A promise that did not hold."""


def plugin() -> Path:
    """The library that the fleet loads and unloads."""
    return build_target("plugin.c", "-shared", "-fPIC", f"-Wl,-soname,{PLUGIN}", name=PLUGIN)


class Member:
    """A program of the fleet, running, in the phase `noise`."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.program = build_target("fleet.c")
        self._stack = ExitStack()
        descriptor, path = tempfile.mkstemp(prefix="fleet-")
        self._stack.callback(os.unlink, path)
        os.truncate(descriptor, 4096)
        self._words = mmap.mmap(descriptor, 4096)
        os.close(descriptor)
        self._set("random", seed | 1)
        self._set("phase", _NOISE)
        self.target = self._stack.enter_context(
            start_target(self.program, kind, path, environment={"PLUGIN": str(plugin())})
        )
        self.pid = self.target.pid
        self.silence()
        self._mappings = self._executable()
        self.noise()

    def __repr__(self) -> str:
        return f"{self.kind}({self.pid})"

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("<Q", self._words, _OFFSETS[name], value)

    def word(self, name: str) -> int:
        """One of its counts, as it stands."""
        value: int = struct.unpack_from("<Q", self._words, _OFFSETS[name])[0]
        return value

    def counts(self) -> Mapping[str, int]:
        """All of its counts. Exact if no call is going on."""
        return {name: self.word(name) for name in _WORDS[4:-1]}

    def open(self) -> None:
        """Let it call what may be probed."""
        self._set("phase", _OPEN)

    def noise(self) -> None:
        """Let it do all else, and wait until no call is going on."""
        self._set("phase", _NOISE)
        self._wait("calls nothing", "calling")

    def silence(self) -> None:
        """Wait until it does nothing at all, and has no child and no second thread."""
        self._set("phase", _SILENT)
        self._wait("is silent", "moving")

    def _wait(self, state: str, count: str) -> None:
        try:
            wait_until(f"{self!r} {state}", lambda: self.word(count) == 0, LIMIT)
        except TimeoutError:
            # Said now: what clears up after this error also frees what hangs.
            describe_hang(f"{self!r} never {state}")
            raise

    def _executable(self) -> list[tuple[int, int, str]]:
        found = [(m.start, m.end, m.path) for m in text_mappings(self.pid)]
        anonymous = []
        for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            fields = line.split()
            if "x" in fields[1] and len(fields) < 6:
                low, _, high = fields[0].partition("-")
                anonymous.append((int(low, 16), int(high, 16), "anonymous"))
        return found + anonymous

    def check_let_go(self) -> None:
        """It is as before any engine came: text, mappings, state. Silences it meanwhile."""
        self.silence()
        if status_fields(self.pid)["TracerPid"] != "0":
            raise Wrong(f"{self!r} is still traced")
        if differences := altered(self.pid):
            raise Wrong(f"{self!r}: its text is not its files': {sorted(differences)[:5]}")
        now = self._executable()
        # An exec lays everything out anew.
        kept = [path for *_, path in now] == [path for *_, path in self._mappings]
        if not kept or (self.kind not in ("execs", "thread-execs") and now != self._mappings):
            raise Wrong(f"{self!r}: its mappings were {self._mappings}, and are {now}")
        for tid in thread_ids(self.pid):
            wait_until(
                "no thread is stopped",
                lambda tid=tid: process_state(tid) in "RSX",  # type: ignore[misc]
                LIMIT,
            )
        for field in ("ShdPnd", "SigPnd"):
            if int(status_fields(self.pid)[field], 16) & (1 << 4 | 1 << 18):
                raise Wrong(f"{self!r}: a SIGTRAP or SIGSTOP was left pending")
        self.check_own_opinion()
        self.noise()

    def check_own_opinion(self) -> None:
        """It has seen no wrong result, exit status or register itself."""
        for name in ("unexpected", "strange_rips", "wrong"):
            if count := self.word(name):
                status = self.word("unexpected_status")
                raise Wrong(f"{self!r} counted {count} of {name!r}, a child's status {status}")

    def end(self) -> None:
        """Have it end by itself, with all that it should say then."""
        self.noise()
        self._set("stop", 1)
        ended = self.target.finish()
        if ended.status != 0 or ended.stderr:
            raise Wrong(f"{self!r} ended with status {ended.status}: {ended.stderr}")
        self.check_own_opinion()

    def killed(self) -> None:
        """It was killed by SIGKILL: check that nothing else ended it."""
        ended = self.target.finish()
        if ended.status != 128 + 9:
            raise Wrong(f"{self!r} was to die of SIGKILL, and its status is {ended.status}")

    def close(self) -> None:
        """Ended if need be, and everything of it closed."""
        self._stack.close()
        self._words.close()
