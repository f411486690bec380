"""What the engine tells its users."""

from __future__ import annotations

from dataclasses import dataclass

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.probe import Probe

__all__ = ["Result", "SitePlan"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to."""

    exit_status: int | None
    """The launched command's own; 128+N if signal N ended it; None if it has not ended."""
    ended: str
    """Why the run ended: `exited`, `timeout`, `max_hits`, `interrupted` or `stopped`."""
    hits: dict[Probe, int]
    missed: dict[Probe, int]
    mechanisms: dict[str, int]
    """How many sites were served by each mechanism."""
    not_found: dict[Probe, UprobesError]
    """Probes that never had a place, and why."""


@dataclass(frozen=True, slots=True)
class SitePlan:
    """How one place of a probe is served."""

    probe: Probe
    address: VirtAddr
    code: bytes
    instruction: str
    mechanism: str
    reason: str | None
    slot: VirtAddr | None
    label: str
    module: str
    definition: Definition
    """The probe's, with a USDT marker's arguments and semaphore where it is at one."""
    file_offset: int | None = None
    """Where the place is in its file; None if it is in none, as in the vDSO."""
