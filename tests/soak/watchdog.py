"""Ends a run that hangs, and says where everything stood."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from ptrace_uprobes.engine.tracing_thread import running_threads
from tests.support.procfs import descendants

__all__ = ["Watchdog", "describe_hang"]

_NOT_TOLD = ("process", "placed", "memory", "word")


def describe_hang(what: str) -> None:
    """Tell where every thread of ours stands, in Python and in the kernel, and all below us."""
    sys.stdout.flush()
    print(f"hang: {what}", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(all_threads=True)
    for tracing in running_threads():
        state = tracing.tracer.state
        print(f"engine: frozen {state.frozen}, events {list(state.events)}", file=sys.stderr)
        for thread in state.threads.values():
            names = [name for name in type(thread).__slots__ if name not in _NOT_TOLD]
            told = {name: getattr(thread, name) for name in names}
            print({name: value for name, value in told.items() if value}, file=sys.stderr)
    print(_processes(), file=sys.stderr, flush=True)
    print(f"what was done in a second: {_activity()}", file=sys.stderr, flush=True)


def _activity() -> Counter[str]:
    """Where the tracing threads were found in a second, in Python: a thread that waits is at one
    place, one that goes in circles at a few."""
    found: Counter[str] = Counter()
    for _ in range(200):
        for ident, frame in sys._current_frames().items():
            stack = traceback.extract_stack(frame)[-3:]
            if ident != threading.get_ident() and any(
                "ptrace_uprobes" in f.filename for f in stack
            ):
                found[" < ".join(f"{f.name}:{f.lineno}" for f in reversed(stack))] += 1
        time.sleep(0.005)
    return found


def _processes() -> str:
    """Where each thread of this process and of all below it stands, in the kernel's words."""
    lines = []
    for pid in (os.getpid(), *descendants(os.getpid())):
        try:
            tids = os.listdir(f"/proc/{pid}/task")
        except FileNotFoundError:
            continue
        for tid in tids:
            lines.append(f"--- {pid}/{tid}")
            for name in ("comm", "wchan", "syscall", "status", "stack"):
                try:
                    text = Path(f"/proc/{pid}/task/{tid}/{name}").read_text()
                except OSError as error:
                    text = f"({error.strerror})"
                if name == "status":
                    wanted = ("State", "TracerPid", "SigPnd", "ShdPnd", "SigBlk", "PPid")
                    text = "\n".join(line for line in text.splitlines() if line.startswith(wanted))
                lines.append(f"{name}: {text.strip()}")
    return "\n".join(lines)


class Watchdog:
    """Wants to be fed; if it is not for `patience` seconds, it tells all and ends the process."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._fed = time.monotonic()
        self._doing = "starting"
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def feed(self, doing: str) -> None:
        """Something new begins, namely `doing`."""
        self._doing = doing
        self._fed = time.monotonic()

    def _watch(self) -> None:
        while time.monotonic() - self._fed < self._patience:
            time.sleep(1)
        describe_hang(f"{self._patience:.0f} s at: {self._doing}")
        # No clean-up can be trusted: some thread waits in the kernel. Our end frees the tracees.
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        os._exit(3)
