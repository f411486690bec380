"""Probe: what the user asked for. Hit: one execution that reached a site of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.errors import HitIsOver, MemoryFault
from ptrace_uprobes.linux.process_info import command_name
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.linux.registers import Registers, registers_of
from ptrace_uprobes.tracee import Thread

if TYPE_CHECKING:
    from ptrace_uprobes.definition.condition import Condition
    from ptrace_uprobes.definition.definition import Definition
    from ptrace_uprobes.fetching.fetcher import Fetcher, Value
    from ptrace_uprobes.symbols.markers import Marker
    from ptrace_uprobes.unwind import Stack

__all__ = ["Handler", "Hit", "Probe", "ProbeHost", "Registers", "SiteCount"]

_monotonic_ns = time.monotonic_ns
_set_rip: Final = UserRegs.rip.__set__
"""As `registers.rip = ...`, without `Registers.__setattr__`: nothing was assigned by a user."""
_PAGE = 4096


class SiteCount:
    """The hits of one probe at one place. Incremented by the engine only."""

    __slots__ = ("address", "hits", "label", "markers", "missed", "module", "probe", "unreturned")

    def __init__(self, probe: Probe, label: str, address: VirtAddr, module: str) -> None:
        self.probe = probe
        self.label = label
        self.address = address
        self.module = module
        self.hits = 0
        self.missed = 0
        self.unreturned = 0
        self.markers: dict[int, Marker] = {}
        """Of a USDT probe: what is at each address, as the file states it."""

    def lose_return(self, cause: str) -> None:
        """For the engine: one call will not return."""
        self.unreturned += 1
        causes = self.probe.unreturned_causes
        causes[cause] = causes.get(cause, 0) + 1

    def __repr__(self) -> str:
        return f"SiteCount({self.label!r}, {self.address:#x}, hits={self.hits})"


Handler = Callable[["Hit"], object]


class ProbeHost(Protocol):
    """What a probe asks of the engine that it belongs to; callable from any thread."""

    def set_enabled(self, probe: Probe, enabled: bool) -> None: ...

    def set_handler(self, probe: Probe, handler: Handler | None) -> None: ...

    def remove_probe(self, probe: Probe) -> None: ...


class Probe:
    """A place, a handler, on or off. Made by `Engine.probe`.

    Also a decorator: `@engine.probe("libc:malloc")` makes the function its handler.
    """

    __slots__ = (
        "_enabled",
        "_host",
        "blocking",
        "condition",
        "definition",
        "fetches",
        "filter_text",
        "filtered",
        "handler",
        "handler_errors",
        "hidden",
        "is_return",
        "missed_causes",
        "pending",
        "places",
        "removed",
        "unreturned_causes",
    )

    def __init__(
        self,
        definition: Definition,
        handler: Handler | None,
        host: ProbeHost,
        *,
        blocking: bool,
        condition: Condition | None = None,
        filter_text: str = "",
        hidden: bool = False,
    ) -> None:
        self.definition = definition
        self.condition = condition
        """The filter: only hits that it is true of are counted and served."""
        self.filter_text = filter_text
        self.filtered = 0
        """Hits that the filter rejected."""
        self.fetches = bool(definition.fetchargs) or condition is not None
        """Each hit looks at more than the address."""
        self.is_return = definition.is_return
        self.hidden = hidden
        """The engine's own: nobody is told of its hits."""
        self.unreturned_causes: dict[str, int] = {}
        self.handler = handler
        self.blocking = blocking
        self.pending = True
        """No place found yet; it is planted when a library that has it is loaded."""
        self.removed = False
        self.handler_errors = 0
        self.missed_causes: dict[str, int] = {}
        self.places: dict[tuple[str, str], SiteCount] = {}
        """Counts by (module, label): all processes and all mappings together."""
        self._enabled = True
        self._host = host

    def __call__(self, handler: Handler) -> Probe:
        self._host.set_handler(self, handler)
        return self

    def __repr__(self) -> str:
        return f"Probe({self.spec!r}, hits={self.hits})"

    @property
    def spec(self) -> str:
        """The SPEC as given."""
        return self.definition.text

    @property
    def sites(self) -> list[SiteCount]:
        return list(self.places.values())

    @property
    def hits(self) -> int:
        return sum(place.hits for place in list(self.places.values()))

    @property
    def missed(self) -> int:
        """Executions that could not be delivered; `missed_causes` says why."""
        return sum(self.missed_causes.values())

    @property
    def unreturned(self) -> int:
        """Of a return probe: calls that were left otherwise; `unreturned_causes` says how."""
        return sum(self.unreturned_causes.values())

    @property
    def enabled(self) -> bool:
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._host.set_enabled(self, bool(value))

    def remove(self) -> None:
        """Take it out for good; other probes at the same sites stay."""
        self._host.remove_probe(self)

    def mark_enabled(self, value: bool) -> None:
        """For the engine: the state after it has acted."""
        self._enabled = value

    def miss(self, cause: str) -> None:
        """For the engine: one execution was not delivered."""
        self.missed_causes[cause] = self.missed_causes.get(cause, 0) + 1


class Hit:
    """One execution that reached a site. Valid while its handler runs.

    Addresses are ints; `time_ns` is CLOCK_MONOTONIC; registers are read on first use.
    """

    # Made at every hit that has a handler: attributes that cost anything are properties.
    __slots__ = (
        "_count",
        "_over",
        "_registers",
        "_thread",
        "address",
        "fetcher",
        "function",
        "is_return",
        "time_ns",
        "values",
    )

    def __init__(self, count: SiteCount, thread: Thread, address: VirtAddr) -> None:
        self._count = count
        self._thread = thread
        self._registers: Registers | None = None
        self._over = False
        self.address = address
        self.function: int = address
        """Where the probed place is; for a return, the function that returned."""
        self.is_return = False
        """A function has returned, to `address`."""
        self.fetcher: Fetcher | None = None
        """Knows the names and the types of `values`."""
        self.values: tuple[Value, ...] = ()
        """The fetchargs' values, in the order in which they are defined."""
        self.time_ns = _monotonic_ns()

    @property
    def probe(self) -> Probe:
        return self._count.probe

    @property
    def label(self) -> str:
        """The place within the probe: `malloc`, `malloc+0x4`, `0x401234`."""
        return self._count.label

    @property
    def module(self) -> str:
        """The file that the place lies in, as the program named it."""
        return self._count.module

    @property
    def pid(self) -> int:
        return self._thread.process.pid

    @property
    def tid(self) -> int:
        return self._thread.tid

    @property
    def comm(self) -> str:
        """The thread's name, as in /proc/PID/comm."""
        return command_name(self._thread.tid)

    @property
    def registers(self) -> Registers:
        """The registers before the displaced instruction; what is assigned is written back.

        Of a 32-bit program also by their i386 names."""
        registers = self._registers
        if registers is None:
            self._check("registers")
            registers = registers_of(self._thread.tid)
            _set_rip(registers, self.address)
            self._registers = registers
        return registers

    @property
    def args(self) -> dict[str, Value]:
        """The fetchargs' values by name."""
        return {} if self.fetcher is None else self.fetcher.as_dict(self.values)

    @property
    def return_value(self) -> int:
        """What the function returned, as the ABI's integer; raises ValueError at an entry."""
        if not self.is_return:
            raise ValueError("only a return probe's hit has a return value")
        return int(self.registers.rax)  # or `eax`

    def stack(self, limit: int = 128) -> Stack:
        """The thread's user stack, innermost frame first, at most `limit` frames."""
        self._check("stack")
        stack: Stack = self._thread.process.space.extra.stack(self.registers, limit)
        return stack

    def argument(self, number: int) -> int:
        """Integer argument `number`, counted from 0, at a function's first instruction."""
        registers = self.registers
        architecture = registers.architecture
        names = architecture.argument_registers
        if number < 0:
            raise ValueError("arguments are counted from 0")
        if number < len(names):
            return int(getattr(registers, names[number]))
        # SysV ABI 3.2.3: the rest lie above the return address, a word each; on i386, all.
        word = architecture.word_size
        offset = word * (1 + number - len(names))
        return int.from_bytes(self.read(registers.rsp + offset, word), "little")

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of memory, our traps not shown; raises `MemoryFault`."""
        self._check("read")
        data: bytes = self._thread.process.space.extra.traps.read(address, size)
        return data

    def read_string(self, address: int, limit: int = 4096) -> bytes:
        """The bytes up to a NUL, at most `limit` of them; raises `MemoryFault` if the first
        byte is not mapped."""
        self._check("read_string")
        traps = self._thread.process.space.extra.traps
        parts = bytearray()
        while len(parts) < limit:
            at = address + len(parts)
            size = min(limit - len(parts), _PAGE - at % _PAGE, 256)
            part = traps.read_some(at, size)
            if not part and not parts:
                raise MemoryFault(address, 1)
            end = part.find(b"\0")
            if end >= 0:
                parts += part[:end]
                break
            parts += part
            if len(part) < size:
                break
        return bytes(parts)

    def write(self, address: int, data: bytes) -> None:
        """Change the program's memory; raises `MemoryFault`. Instructions under a probe are
        refused with ValueError, since a copy of them is what runs."""
        self._check("write")
        self._thread.process.space.extra.write(address, bytes(data))

    def symbol(self, address: int) -> str:
        """`name+0x12` for a code address, `module+0x1234` where no symbol covers it."""
        self._check("symbol")
        text: str = self._thread.process.space.extra.name_of(address)
        return text

    def return_now(self, value: int = 0) -> None:
        """Skip the function: return `value` to its caller. For a function's first instruction;
        raises ValueError at a return."""
        if self.is_return:
            raise ValueError("the function has returned already; assign registers.rax instead")
        registers = self.registers
        architecture = registers.architecture
        target = self.read(registers.rsp, architecture.word_size)
        registers.rax = value & architecture.mask
        registers.rsp += architecture.word_size
        registers.rip = int.from_bytes(target, "little")

    def _check(self, what: str) -> None:
        if self._over:
            raise HitIsOver(what)

    def close(self) -> None:
        """For the engine: the handler has returned."""
        self._over = True
