"""The last resort of an address space: put in with its first area, taken out with the last.

Should we be killed, the kernel lets every tracee go on with what it was stopped for, and so the
SIGTRAPs of our traps are the program's own. What then catches them is `arch.last_resort`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.last_resort import LAST_RESORTS, LastResort
from ptrace_uprobes.linux.memory import ProcessMemory
from ptrace_uprobes.linux.process_info import Status
from ptrace_uprobes.remote_syscall import RemoteCalls
from ptrace_uprobes.ssol.scratch import Region

__all__ = ["NO_NET", "OWN_HANDLER", "SafetyNet", "last_resort_for", "spread"]

NO_NET: Final = (
    "no safety net: {why}; should this tracer be killed, the program may die of a trap before "
    "the guardian has taken that out"
)
OWN_HANDLER: Final = "the program handles or ignores SIGTRAP itself"
_SIGSET_SIZE: Final = 8


def last_resort_for(architecture: Architecture) -> LastResort | None:
    """None: not written yet for this architecture."""
    return LAST_RESORTS.get((architecture.elf_machine, architecture.elf_class))


@dataclass(frozen=True, slots=True)
class SafetyNet:
    """Where it hangs in one address space."""

    resort: LastResort
    start: VirtAddr
    scratch: VirtAddr
    """A page that the program can write, for the kernel to leave an action in."""
    former: bytes
    """The action that it replaced: SIG_DFL, with flags that no one but sigaction(2) looks at."""

    @property
    def head(self) -> int:
        return self.start + self.resort.head

    def is_of(self, action: bytes) -> bool:
        """Whether an action of the program's is this net."""
        return self.resort.handler_of(action) == self.start

    @property
    def _word_size(self) -> int:
        return self.resort.architecture.word_size

    def add(self, memory: ProcessMemory, node: VirtAddr) -> None:
        """Put a node that has been written, and that `first_node` follows, into the list."""
        memory.write(self.head, node.to_bytes(self._word_size, "little"))

    def first_node(self, memory: ProcessMemory) -> int | None:
        """None if the memory is gone."""
        head = memory.read_some(self.head, self._word_size)
        return int.from_bytes(head, "little") if len(head) == self._word_size else None

    def hang_again(self, remote: RemoteCalls, memory: ProcessMemory) -> None:
        """Where SIG_DFL stands in its place by now; what the program has put there stays."""
        if _is_free(self.resort, remote, memory, self.scratch):
            _put_in(self.resort, remote, memory, self.start, self.scratch)

    def take_down(self, remote: RemoteCalls, memory: ProcessMemory) -> None:
        """Give the program its former action back, unless it has another one by now."""
        memory.write(self.scratch, self.former)
        size = len(self.former)
        before = self.scratch + size
        number = self.resort.architecture.system_calls.rt_sigaction
        remote.syscall(number, signal.SIGTRAP, self.scratch, before, _SIGSET_SIZE)
        if not self.is_of(memory.read(before, size)):
            remote.syscall(number, signal.SIGTRAP, before, 0, _SIGSET_SIZE)


def spread(
    resort: LastResort,
    remote: RemoteCalls,
    memory: ProcessMemory,
    area: Region,
    scratch: VirtAddr,
    status: Status,
) -> SafetyNet | None:
    """Hang it into a new area; None if the program has a use for SIGTRAP itself."""
    start = area.take(resort.size)
    node = area.take(len(resort.area_node(0, 0, 0)))
    if start is None or node is None:
        return None
    memory.write(node, resort.area_node(0, area.start, area.end))
    memory.write(start, resort.assemble(start, node))
    taken = status.ignores(signal.SIGTRAP) or status.catches(signal.SIGTRAP)
    if taken and not _is_free(resort, remote, memory, scratch):
        return None
    former = _put_in(resort, remote, memory, start, scratch)
    if former is None:
        return None
    if resort.handler_of(former):
        former = resort.default_action
    return SafetyNet(resort, start, scratch, former)


def _is_free(
    resort: LastResort, remote: RemoteCalls, memory: ProcessMemory, scratch: VirtAddr
) -> bool:
    """Only a look: the program's own is not to be missing for a moment."""
    number = resort.architecture.system_calls.rt_sigaction
    remote.syscall(number, signal.SIGTRAP, 0, scratch, _SIGSET_SIZE)
    return _is_default(memory.read(scratch, len(resort.default_action)), resort, memory)


def _put_in(
    resort: LastResort,
    remote: RemoteCalls,
    memory: ProcessMemory,
    start: VirtAddr,
    scratch: VirtAddr,
) -> bytes | None:
    """Make it the action for SIGTRAP; gives the former one, or None if that is the program's own,
    which is back then."""
    number = resort.architecture.system_calls.rt_sigaction
    remote.syscall(number, signal.SIGTRAP, start + resort.action, scratch, _SIGSET_SIZE)
    former = memory.read(scratch, len(resort.default_action))
    if _is_default(former, resort, memory):
        return former
    remote.syscall(number, signal.SIGTRAP, scratch, 0, _SIGSET_SIZE)
    return None


def _is_default(action: bytes, resort: LastResort, memory: ProcessMemory) -> bool:
    """SIG_DFL, or what a tracer that was killed has left behind."""
    handler = resort.handler_of(action)
    if handler <= signal.SIG_IGN:
        return handler == signal.SIG_DFL
    return memory.read_some(handler, len(resort.code)) == resort.code
