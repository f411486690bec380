"""lldb with a Python callback, and with a breakpoint that goes on by itself."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.contestant import Command
from bench.contestants.program import ProgramContestant
from bench.job import Job, Task

__all__ = ["Lldb"]

_SCRIPT = """
import lldb

hits = total = 0

def hit(frame, location, internal):
    global hits
    hits += 1
    return False

def hit_and_read(frame, location, internal):
    global hits, total
    hits += 1
    total += frame.FindRegister("rdi").GetValueAsUnsigned()
    return False

def report(debugger, command, result, internal):
    probe = debugger.GetSelectedTarget().GetBreakpointAtIndex(0)
    print("hits", hits or probe.GetHitCount())
    print("sum", total)

def __lldb_init_module(debugger, internal):
    debugger.HandleCommand("command script add -f count.report count_report")
"""


class Lldb(ProgramContestant):
    program = "lldb"
    first_calls = 60

    def __init__(self, way: str) -> None:
        """`python`, a callback; `auto`, --auto-continue."""
        self._way = way
        self.name = "lldb, Python callback" if way == "python" else "lldb, --auto-continue"
        if way == "auto":
            self.tasks = (Task.COUNT,)

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        (folder / "count.py").write_text(_SCRIPT)
        function = "hit" if job.task is Task.COUNT else "hit_and_read"
        at_hit = {
            "python": f"breakpoint command add -F count.{function} 1",
            "auto": "breakpoint modify --auto-continue true 1",
        }[self._way]
        orders = (
            "settings set target.disable-aslr true",
            f"command script import {folder / 'count.py'}",
            f"breakpoint set -s {Path(target[0]).name} -a {job.site.address:#x}",
            at_hit,
            "process launch",
            "count_report",
        )
        words = [word for order in orders for word in ("-o", order)]
        # Debian's lldb does not find its own Python module.
        modules = glob.glob("/usr/lib/llvm-*/lib/python3.*/dist-packages/lldb")
        environment = {"PYTHONPATH": str(Path(modules[-1]).parent)} if modules else {}
        return Command(["lldb", "--no-lldbinit", "--batch", *words, "--", *target], environment)
