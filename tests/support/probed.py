"""Runs a command unprobed and probed, in the same circumstances, and gives both to compare."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ptrace_uprobes as pu
from ptrace_uprobes import errors

__all__ = ["Outcome", "ProbedRun", "fixed_layout", "run_plain", "run_probed"]

_ADDR_NO_RANDOMIZE = 0x0040000  # personality(2)
_LIMIT = 120.0

Handler = Callable[[pu.Hit], object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a command's caller can see of it."""

    status: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class ProbedRun:
    """A probed run: the outcome, and what the engine counted, by SPEC."""

    outcome: Outcome
    ended: str
    hits: dict[str, int]
    missed: dict[str, int]
    mechanisms: dict[str, int]
    warnings: tuple[str, ...]
    refused: tuple[str, ...]


@contextmanager
def fixed_layout() -> Iterator[None]:
    """What is started inside the block has no address randomisation, so that runs compare."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.personality(ctypes.c_ulong(0xFFFFFFFF))
    libc.personality(ctypes.c_ulong(before | _ADDR_NO_RANDOMIZE))
    try:
        yield
    finally:
        libc.personality(ctypes.c_ulong(before))


@contextmanager
def _standard_streams(stdin: int, stdout: int, stderr: int) -> Iterator[None]:
    # The launched command inherits our standard streams, as with any launcher.
    saved = [os.dup(number) for number in range(3)]
    try:
        for number, replacement in enumerate((stdin, stdout, stderr)):
            os.dup2(replacement, number)
        yield
    finally:
        for number, original in enumerate(saved):
            os.dup2(original, number)
            os.close(original)


def run_plain(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
) -> Outcome:
    """The command by itself."""
    with tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        with fixed_layout():
            process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=None if env is None else dict(env),
                cwd=cwd,
            )
        stdout, stderr = process.communicate(timeout=_LIMIT)
    status = process.returncode
    return Outcome(status if status >= 0 else 128 - status, stdout, stderr)


def run_probed(
    argv: Sequence[str | Path],
    specs: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    mechanism: str = "auto",
    follow_forks: bool = False,
    handler: Handler | None = None,
    allow_refusals: bool = False,
    limit: float = _LIMIT,
) -> ProbedRun:
    """The command with a probe on each SPEC, to its end, or for `limit` seconds."""
    warnings: list[str] = []
    refused = []
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        source.write(stdin)
        source.seek(0)
        streams = (source.fileno(), stdout.fileno(), stderr.fileno())
        with _standard_streams(*streams), fixed_layout():
            engine = pu.launch(
                [str(word) for word in argv],
                follow_forks=follow_forks,
                mechanism=mechanism,
                env=None if env is None else dict(env),
                cwd=None if cwd is None else str(cwd),
                on_warning=warnings.append,
            )
        with engine:
            probes = {}
            for spec in specs:
                try:
                    probes[spec] = engine.probe(spec, handler)
                except errors.InstructionRefused as refusal:
                    if not allow_refusals:
                        raise
                    refused.append(str(refusal))
            result = engine.run(timeout=limit)
        stdout.seek(0)
        stderr.seek(0)
        status = -1 if result.exit_status is None else result.exit_status
        return ProbedRun(
            outcome=Outcome(status, stdout.read(), stderr.read()),
            ended=result.ended,
            hits={spec: result.hits[probe] for spec, probe in probes.items()},
            missed={spec: result.missed[probe] for spec, probe in probes.items()},
            mechanisms=dict(result.mechanisms),
            warnings=tuple(warnings),
            refused=tuple(refused),
        )
