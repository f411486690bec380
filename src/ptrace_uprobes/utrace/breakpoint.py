"""What is asked for at one address of one process: the proposal's `struct uprobe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.errors import BadSpec, MemoryFault
from ptrace_uprobes.probe import Hit, Probe
from ptrace_uprobes.utrace.handlers import Registration
from ptrace_uprobes.utrace.log import Entry, Log
from ptrace_uprobes.utrace.refusals import InvalidRequest, is_number

__all__ = [
    "LONGEST_DATA",
    "UTRACE_GETDATA",
    "UTRACE_GETREGS",
    "UTRACE_HANDLER",
    "UTRACE_KHANDLER",
    "UTRACE_STACKTRACE",
    "Breakpoint",
    "Logger",
    "Order",
    "Placed",
    "checked_vaddr",
]

UTRACE_GETDATA: Final = 0x1
"""Log `length` bytes at the address in the first argument."""
UTRACE_GETREGS: Final = 0x2
"""Log the general registers."""
UTRACE_STACKTRACE: Final = 0x4
"""Log the user stack up to the breakpoint."""
UTRACE_HANDLER: Final = 0x8
"""Call the registered handler `name`."""
UTRACE_KHANDLER: Final = UTRACE_HANDLER
"""The proposal's name for it; there is no kernel in ours."""

LONGEST_DATA: Final = 1 << 16
_LOGGED: Final = UTRACE_GETDATA | UTRACE_GETREGS | UTRACE_STACKTRACE
_LARGEST_ADDRESS: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """One breakpoint as it stands, from `utrace_lsbp`."""

    pid: int
    vaddr: int | str
    """As it was given."""
    addresses: tuple[int, ...]
    """Where it is in the process; none while its library is not loaded."""
    request: int
    name: str | None
    length: int
    active: bool
    """The proposal's status: an inactive breakpoint is known, and holds no trap."""
    hits: int
    missed: int


@dataclass(frozen=True, slots=True)
class Order:
    """The arguments of one utrace_addbp, found to make sense."""

    vaddr: int | str
    request: int
    name: str | None
    length: int

    @property
    def logs(self) -> bool:
        return bool(self.request & _LOGGED)

    @classmethod
    def parsed(cls, arguments: object) -> Order:
        """Of the tuple that stands for utrace_addbp's arguments; raises `InvalidRequest`."""
        if not isinstance(arguments, (tuple, list)) or not 2 <= len(arguments) <= 4:
            raise InvalidRequest(
                f"a breakpoint is (vaddr, request[, name[, length]]), not {arguments!r}"
            )
        return cls.checked(*arguments)

    @classmethod
    def checked(
        cls, vaddr: int | str, request: int, name: str | None = None, length: int = 0
    ) -> Order:
        """Raises `InvalidRequest` (EINVAL). That the name is registered is asked later."""
        if not is_number(request) or request <= 0 or request & ~(_LOGGED | UTRACE_HANDLER):
            raise InvalidRequest(f"a request is a bitmap of UTRACE_ bits, not {request!r}")
        if request & UTRACE_HANDLER and name is None:
            raise InvalidRequest("UTRACE_HANDLER needs the name of a registered handler")
        if name is not None and not request & UTRACE_HANDLER:
            raise InvalidRequest(
                f"the name {name!r} is for UTRACE_HANDLER, which was not asked for"
            )
        if not is_number(length) or length < 0:
            raise InvalidRequest(f"a length is a number of bytes, not {length!r}")
        if length and not request & UTRACE_GETDATA:
            raise InvalidRequest("a length is for UTRACE_GETDATA, which was not asked for")
        if length > LONGEST_DATA:
            raise InvalidRequest(f"at most {LONGEST_DATA} bytes are logged at a hit")
        return cls(checked_vaddr(vaddr), request, name, length)


def checked_vaddr(vaddr: int | str) -> int | str:
    """Raises `InvalidRequest` for what can be no breakpoint's place."""
    if isinstance(vaddr, str):
        try:
            definition = parse_definition(vaddr)
        except BadSpec as error:
            raise InvalidRequest(str(error)) from error
        if definition.is_return or definition.fetchargs or definition.place.is_glob:
            raise InvalidRequest(
                f"{vaddr!r} is more than a place: what is recorded is said by the request"
            )
        return vaddr
    if not is_number(vaddr) or not 0 <= vaddr <= _LARGEST_ADDRESS:
        raise InvalidRequest(f"{vaddr!r} is neither a virtual address nor a SPEC")
    return vaddr


@dataclass(eq=False, slots=True)
class Placed:
    """A breakpoint of a program: the order, and what serves it."""

    order: Order
    probes: list[Probe]
    """The one that logs, the one that runs the handler: those that were asked for."""
    handler: Registration | None
    active: bool = True

    def shown(self, pid: int, addresses: set[int]) -> Breakpoint:
        order = self.order
        return Breakpoint(
            pid=pid,
            vaddr=order.vaddr,
            addresses=tuple(sorted(addresses)),
            request=order.request,
            name=order.name,
            length=order.length,
            active=self.active,
            hits=self.probes[0].hits,
            missed=max(probe.missed for probe in self.probes),
        )


class Logger:
    """The predefined handlers: logs what `order` asks for. Called with each hit."""

    __slots__ = ("_data", "_length", "_log", "_registers", "_stack", "_vaddr")

    def __init__(self, order: Order, log: Log) -> None:
        self._vaddr = order.vaddr
        self._log = log
        self._registers = bool(order.request & UTRACE_GETREGS)
        self._data = bool(order.request & UTRACE_GETDATA)
        self._stack = bool(order.request & UTRACE_STACKTRACE)
        self._length = order.length

    def __call__(self, hit: Hit) -> None:
        # HOT PATH, on the tracing thread: a system call for the registers, one for the data.
        self._log.add(
            Entry(
                hit.pid,
                hit.tid,
                hit.time_ns,
                self._vaddr,
                hit.address,
                bytes(hit.registers) if self._registers else None,
                _data_at(hit, hit.argument(0), self._length) if self._data else None,
                hit.stack() if self._stack else None,
            )
        )


def _data_at(hit: Hit, address: int, length: int) -> bytes:
    """`length` bytes, or as many as are mapped from `address` on."""
    try:
        return hit.read(address, length)
    except MemoryFault as fault:
        mapped = fault.address - address
    try:
        return hit.read(address, mapped) if 0 < mapped < length else b""
    except MemoryFault:  # unmapped meanwhile
        return b""
