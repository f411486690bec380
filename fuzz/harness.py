"""Drives fuzz/harness.c, whose layouts the constants repeat: batches of runs through shared memory.

A run is a few microseconds; what limits a campaign is the Python around it.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.build import build_target

from fuzz.mode import WIDE, Mode
from ptrace_uprobes.errors import UprobesError

__all__ = [
    "ARENA",
    "CASES",
    "DATA",
    "MEMORIES",
    "PAGE",
    "REGISTERS",
    "SITE",
    "SLOT",
    "STACK",
    "XSTATES",
    "Code",
    "Harness",
    "HarnessLost",
    "Result",
    "Run",
]

REGISTERS: Final = (
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags"),
)
PAGE: Final = 4096
ARENA: Final = 0x10000
SITE, SLOT, DATA, STACK = 0, 0x100_0000, 0x200_0000, 0x300_0000
"""Distances of the arenas from a base. SITE and SLOT hold int3 but for what a run puts there.
DATA is a page to write, and one to read only; STACK is one page. Beside them is nothing."""
XSTATES: Final = 64
MEMORIES: Final = 16
CASES: Final = 1024

_MAX_CODE = 96
_CASE = struct.Struct(f"<18Q 2Q 4I 2Q QQ{_MAX_CODE}s QQ{_MAX_CODE}s")
_RESULT = struct.Struct("<iiQ 18Q 5Q 8H Q")
_RESULT_SIZE = _RESULT.size + 3 * PAGE
_MEMORY_SIZE = 3 * PAGE
_FACTS = struct.Struct("<2Q 128Q")
_COUNT_AT = _FACTS.size
_CURRENT_AT = _COUNT_AT + 8
_TEMPLATE_AT = _CURRENT_AT + 8
_XSTATES_AT = _TEMPLATE_AT + PAGE
_MEMORIES_AT = _XSTATES_AT + XSTATES * PAGE
_CASES_AT = _MEMORIES_AT + MEMORIES * 4 * _MEMORY_SIZE
_RESULTS_AT = _CASES_AT + CASES * _CASE.size
_SIZE = _RESULTS_AT + CASES * _RESULT_SIZE
_PATIENCE_SECONDS = 60
_FLAGS = (
    *("-O2", "-ffreestanding", "-nostdlib", "-static-pie", "-fPIE", "-mgeneral-regs-only"),
    *("-fno-stack-protector", "-fcf-protection=none", "-fvisibility=hidden"),
)


class HarnessLost(UprobesError):
    """The process that runs the code has ended, in the run of this number."""

    def __init__(self, index: int, status: int) -> None:
        super().__init__(f"the harness ended with {status} in run {index} of its batch")
        self.index = index
        self.status = status


@dataclass(frozen=True, slots=True)
class Code:
    """Bytes to put at an address of a SITE or SLOT arena."""

    at: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """One execution: from which state, with what in the arenas."""

    general: Sequence[int]
    """In the order of `REGISTERS`."""
    fs_base: int
    gs_base: int
    base: int
    """Number of the base in `Mode.all_bases`."""
    xstate: int
    memory: int
    code: tuple[Code, ...]
    step_start: int = 0
    step_over: int = 0
    """A mask: traps of TF at these offsets from `step_start` are passed over."""


@dataclass(frozen=True, slots=True)
class Result:
    """Where a run ended, and in which state."""

    signal: int
    signal_code: int
    fault_address: int
    general: tuple[int, ...]
    trap: int
    error: int
    cr2: int
    fs_base: int
    gs_base: int
    segments: tuple[int, ...]
    """CS, SS, DS, ES, FS, GS."""
    xstate: bytes
    data: bytes
    stack: bytes


class Harness:
    """The sacrificial process; use as a context manager. Raises `BuildFailed` where the compiler
    makes no programs of that mode."""

    def __init__(self, mode: Mode = WIDE) -> None:
        self.mode = mode
        self._program = build_target(
            Path(__file__).with_name("harness.c"), *_FLAGS, *mode.flags, name=f"harness_{mode.bits}"
        )
        descriptor = os.memfd_create("harness")
        os.ftruncate(descriptor, _SIZE)
        self._shared = mmap.mmap(descriptor, _SIZE)
        self._descriptor = descriptor
        self._start()
        facts = _FACTS.unpack_from(self._shared)
        self.xstate_size: int = facts[0]
        self.features: int = facts[1]
        self.components = {
            number: (facts[2 + 2 * number], facts[3 + 2 * number])
            for number in range(2, 63)
            if self.features >> number & 1
        }
        """Offset and size in the XSAVE area (SDM volume 1, 13.4.3), by number."""
        self.template = self._shared[_TEMPLATE_AT : _TEMPLATE_AT + self.xstate_size]

    def _start(self) -> None:
        self._child = subprocess.Popen(
            [self._program, str(self._descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._descriptor,),
        )
        self._wait()

    def _wait(self) -> None:
        assert self._child.stdout is not None
        if not select.select([self._child.stdout], [], [], _PATIENCE_SECONDS)[0]:
            self._child.kill()
        if os.read(self._child.stdout.fileno(), 1) != b"d":
            (current,) = struct.unpack_from("<Q", self._shared, _CURRENT_AT)
            status = self._child.wait()
            self._close_pipes()
            raise HarnessLost(current, status)

    def _close_pipes(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *error: object) -> None:
        self._close_pipes()
        self._child.wait()
        self._shared.close()
        os.close(self._descriptor)

    def set_xstate(self, index: int, content: bytes) -> None:
        at = _XSTATES_AT + index * PAGE
        self._shared[at : at + len(content)] = content

    def set_memory(self, index: int, base: int, content: bytes) -> None:
        """Two pages of data, one of stack."""
        at = _MEMORIES_AT + (index * 4 + base) * _MEMORY_SIZE
        self._shared[at : at + _MEMORY_SIZE] = content

    def run(self, runs: Sequence[Run]) -> list[Result | HarnessLost]:
        """What became of each; of those that ended the harness, that it did."""
        answers: list[Result | HarnessLost] = []
        while len(answers) < len(runs):
            batch = runs[len(answers) : len(answers) + CASES]
            try:
                self._run(batch)
                done = len(batch)
            except HarnessLost as lost:
                done = lost.index
                answers += [self._result(index) for index in range(done)]
                answers.append(lost)
                self._start()
                continue
            answers += [self._result(index) for index in range(done)]
        return answers

    def _run(self, batch: Sequence[Run]) -> None:
        for index, run in enumerate(batch):
            codes: list[int | bytes] = []
            for code in (*run.code, Code(0, b""), Code(0, b""))[:2]:
                codes += [code.at, len(code.content), code.content]
            _CASE.pack_into(
                self._shared,
                _CASES_AT + index * _CASE.size,
                *run.general,
                run.fs_base,
                run.gs_base,
                run.base,
                run.xstate,
                run.memory,
                0,
                run.step_start,
                run.step_over,
                *codes,
            )
        struct.pack_into("<2Q", self._shared, _COUNT_AT, len(batch), 0)
        assert self._child.stdin is not None
        os.write(self._child.stdin.fileno(), b"g")
        self._wait()

    def _result(self, index: int) -> Result:
        at = _RESULTS_AT + index * _RESULT_SIZE
        signal, code, fault, *rest = _RESULT.unpack_from(self._shared, at)
        at += _RESULT.size
        return Result(
            signal,
            code,
            fault,
            tuple(rest[:18]),
            trap=rest[18],
            error=rest[19],
            cr2=rest[20],
            fs_base=rest[21],
            gs_base=rest[22],
            segments=tuple(rest[23:29]),
            xstate=self._shared[at : at + self.xstate_size],
            data=self._shared[at + PAGE : at + 2 * PAGE],
            stack=self._shared[at + 2 * PAGE : at + 3 * PAGE],
        )
