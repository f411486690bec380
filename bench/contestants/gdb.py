"""gdb, in each of its ways to do something at a breakpoint and go on; gdbserver's tracepoints."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.contestant import Command, Counted
from bench.contestants.program import ProgramContestant
from bench.job import WARM_UP_CALLS, Job, Task

__all__ = ["Gdb", "GdbserverTracepoint"]

_QUIET = ("set debuginfod enabled off", "set pagination off", "set confirm off")

# A location by address: `break FUNCTION` would be behind what gdb takes for its prologue.
_PYTHON = """
python
class Count(gdb.Breakpoint):
    hits = total = 0
    def stop(self):
        self.hits += 1
        if {reads}:
            self.total += int(gdb.selected_frame().read_register("rdi"))
        return False
probe = Count("*{address:#x}")
gdb.execute("run")
print("hits", probe.hits)
print("sum", probe.total)
end
"""
# What is to be done at a return; FinishBreakpoint(internal=True) announces nothing.
_FINISH = """
python
class Return(gdb.FinishBreakpoint):
    def stop(self):
        probe.hits += 1
        return False
class Count(gdb.Breakpoint):
    hits = 0
    def stop(self):
        Return(gdb.newest_frame(), internal=True)
        return False
probe = Count("*{address:#x}")
gdb.execute("run")
print("hits", probe.hits)
end
"""
_COMMANDS = """
set $n = 0
set $total = 0
break *{address:#x}
commands
silent
set $n = $n + 1
{read}
continue
end
run
printf "hits %lu\\nsum %lu\\n", $n, $total
"""
_IGNORE = """
break *{address:#x}
ignore 1 1000000000
run
python print("hits", gdb.breakpoints()[0].hit_count)
"""
_DPRINTF = """
dprintf *{address:#x},"PROBEHIT %ld\\n", $rdi
run
"""

_WAYS = {
    "python": ("gdb, Python Breakpoint.stop", _PYTHON),
    "finish": ("gdb, Python FinishBreakpoint", _FINISH),
    "commands": ("gdb, commands silent/continue", _COMMANDS),
    "ignore": ("gdb, ignore count", _IGNORE),
    "dprintf": ("gdb, dprintf", _DPRINTF),
}


class Gdb(ProgramContestant):
    program = "gdb"
    stops_per_hit = 2.0

    def __init__(self, way: str) -> None:
        self.name, self._script = _WAYS[way]
        self._way = way
        if way in ("ignore", "finish"):
            self.tasks = (Task.COUNT,)

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        reads = job.task is Task.ARGUMENT
        script = folder / "script.gdb"
        read = "set $total = $total + $rdi" if reads else ""
        # Not format() for all: the scripts have braces of their own nowhere else.
        text = self._script.format(address=job.site.address, reads=reads, read=read)
        script.write_text("\n".join((*_QUIET, text, "quit", "")))
        return Command(["gdb", "-q", "-nx", "-batch", "-x", str(script), "--args", *target])

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        if self._way != "dprintf":
            return super().read_count(job, printed, folder)
        values = list(map(int, re.findall(r"PROBEHIT (\d+)", printed)))
        return Counted(len(values), sum(values))


_TRACE = """
set sysroot /
target remote | gdbserver --wrapper env LD_PRELOAD={agent} -- --once - {target}
break main
continue
ftrace *{address:#x}
actions
{collect}
end
set circular-trace-buffer on
tstart
break _exit
continue
tstatus
tstop
{read}
"""
_READ_FRAMES = """
python
values = []
gdb.execute("tfind start", to_string=True)
while int(gdb.parse_and_eval("$trace_frame")) >= 0:
    try:
        values.append(int(gdb.parse_and_eval("$rdi")))
    except gdb.error:
        values.append("lost")
    gdb.execute("tfind", to_string=True)
print("values", *values)
end
"""


class GdbserverTracepoint(ProgramContestant):
    """A jump to gdbserver's agent in the program: no stop. It needs an instruction of five bytes.

    Its count is the number of trace frames: variables that fast tracepoints change read as 0.
    Of the arguments, those that its circular buffer still holds are checked, the last 2,000 or so;
    one frame, for which there was no room at the buffer's end, comes without.
    """

    name = "gdbserver, fast tracepoint"
    program = "gdbserver"
    stops_per_hit = 0.0
    first_calls = 2000

    def missing(self) -> str | None:
        if self._agent() is None:
            return "libinproctrace.so is not installed"
        return super().missing() or (None if shutil.which("gdb") else "gdb is not installed")

    def refuses(self, job: Job) -> str | None:
        if job.site.name not in ("nop5", "load_rip", "call", "lock"):
            return "the instruction has fewer than five bytes, which a jump needs"
        return super().refuses(job)

    @staticmethod
    def _agent() -> Path | None:
        places = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/lib/x86_64-linux-gnu"))
        return next(
            (p / "libinproctrace.so" for p in places if (p / "libinproctrace.so").exists()), None
        )

    def command(self, job: Job, target: Sequence[str], folder: Path) -> Command:
        reads = job.task is Task.ARGUMENT
        script = folder / "script.gdb"
        text = _TRACE.format(
            agent=self._agent(),
            target=" ".join(target),
            address=job.site.address,
            collect="collect $rdi" if reads else "",
            read=_READ_FRAMES if reads else "",
        )
        script.write_text("\n".join((*_QUIET, text, "quit", "")))
        return Command(["gdb", "-q", "-nx", "-batch", "-x", str(script), target[0]])

    def read_count(self, job: Job, printed: str, folder: Path) -> Counted:
        found = re.search(r"of (\d+) created total|Collected (\d+) trace frames", printed)
        hits = int(found[1] or found[2]) if found else None
        if job.task is not Task.ARGUMENT:
            return Counted(hits)
        found = re.search(r"^values((?: (?:\d+|lost))+)$", printed, re.MULTILINE)
        values = found[1].split() if found else []
        calls = [*range(1, WARM_UP_CALLS + 1), *range(1, job.calls + 1)][-len(values) :]
        wrong = [one for one, call in zip(values, calls, strict=False) if one != str(call)]
        return Counted(hits, job.expected_sum if values and wrong in ([], ["lost"]) else None)
