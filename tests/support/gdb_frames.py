"""Programs stopped at a place by gdb, with the frames that gdb sees there: the oracle of stacks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

from ptrace_uprobes.linux.maps import read_maps
from ptrace_uprobes.symbols.modules import Module, modules_of

__all__ = ["Gdb", "GdbFrame", "StoppedProgram", "gdb_at", "stopped_by_gdb"]

# Runs inside gdb. Inlined functions and tail calls have no frame of their own on the stack.
_SCRIPT = textwrap.dedent("""
    import json, os
    for fd in ({reply}, {go_on}):
        os.set_inheritable(fd, False)
    value = lambda name: int(gdb.newest_frame().read_register(name)) & (1 << 64) - 1
    names = ("rip rsp rbp rax rbx rcx rdx rsi rdi r8 r9 r10 r11 r12 r13 r14 r15").split()
    own_names = {{name: name for name in names}}
    if gdb.newest_frame().architecture().name() == "i386":
        own_names = {{name: "e" + name[1:] for name in names[:9]}}
    while True:
        frames, frame = [], gdb.newest_frame()
        while frame is not None:
            if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
                frames.append([frame.pc(), frame.name(), frame.type() == gdb.SIGTRAMP_FRAME])
            try:
                frame = frame.older() if len(frames) < {limit} else None
            except gdb.error:
                frame = None
        state = dict(pid=gdb.selected_inferior().pid, frames=frames,
                     registers={{name: value(own) for name, own in own_names.items()}})
        os.write({reply}, json.dumps(state).encode() + b"\\n")
        command = os.read({go_on}, 1000).decode()
        if not command:
            break
        gdb.execute(command, to_string=True)
""")


@dataclass(frozen=True, slots=True)
class GdbFrame:
    address: int
    name: str | None
    is_signal: bool


@dataclass(frozen=True, slots=True)
class StoppedProgram:
    pid: int
    registers: SimpleNamespace
    frames: tuple[GdbFrame, ...]
    modules: list[Module]

    def module_at(self, address: int) -> Module | None:
        return next((m for m in self.modules if m.contains(address)), None)

    def read(self, address: int, size: int) -> bytes:
        parts = []
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as file:
            while size > 0:
                try:
                    part = os.pread(file.fileno(), size, address)
                except (OSError, OverflowError):
                    break
                if not part:
                    break
                parts.append(part)
                address, size = address + len(part), size - len(part)
        return b"".join(parts)

    def read_exactly(self, address: int, size: int) -> bytes:
        data = self.read(address, size)
        assert len(data) == size
        return data


class Gdb:
    """A program under gdb, which has brought it to a place."""

    def __init__(self, process: subprocess.Popen[bytes], answers: BinaryIO, orders: int) -> None:
        self._process = process
        self._answers = answers
        self._orders = orders

    def stopped(self) -> StoppedProgram:
        """The program as it stands now; once after each command."""
        line = self._answers.readline()
        if not line:
            said = self._process.communicate(timeout=60)[0].decode("utf-8", "replace")
            raise AssertionError(f"gdb did not get there:\n{said}")
        state = json.loads(line)
        program = StoppedProgram(
            pid=state["pid"],
            registers=SimpleNamespace(**state["registers"]),
            frames=tuple(GdbFrame(*frame) for frame in state["frames"]),
            modules=[],
        )
        program.modules.extend(
            modules_of(program.pid, read_maps(program.pid), program.read_exactly)
        )
        return program

    def execute(self, command: str) -> StoppedProgram:
        os.write(self._orders, command.encode())
        return self.stopped()


@contextlib.contextmanager
def gdb_at(
    command: Sequence[str | Path], *gdb_commands: str, limit: int = 1000, cwd: Path | None = None
) -> Iterator[Gdb]:
    """gdb, when it has executed these commands; the program ends with the block."""
    from_gdb, reply = os.pipe()
    go_on, to_gdb = os.pipe()
    settings = ("set confirm off", "set pagination off", "set debuginfod enabled off")
    script = _SCRIPT.format(reply=reply, go_on=go_on, limit=limit)
    arguments = ["gdb", "-nx", "-q", "-batch"]
    for line in (*settings, "set backtrace past-main on", "set backtrace limit unlimited"):
        arguments += ["-iex", line]
    for line in gdb_commands:
        arguments += ["-ex", line]
    arguments += ["-ex", f"python exec({script!r})", "-ex", "kill", "--args", *map(str, command)]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(reply, go_on),
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
    )
    os.close(reply)
    os.close(go_on)
    with open(from_gdb, "rb") as answers:
        try:
            yield Gdb(process, answers, to_gdb)
        finally:
            os.close(to_gdb)
            if process.poll() is None:
                process.communicate(timeout=60)


@contextlib.contextmanager
def stopped_by_gdb(
    command: Sequence[str | Path], *gdb_commands: str, limit: int = 1000, cwd: Path | None = None
) -> Iterator[StoppedProgram]:
    """The program where these commands of gdb's have brought it; it ends with the block."""
    with gdb_at(command, *gdb_commands, limit=limit, cwd=cwd) as gdb:
        yield gdb.stopped()
