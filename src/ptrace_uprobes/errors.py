"""Every error that a user can meet, in one tree from `UprobesError`.

A leaf carries the facts as attributes, says in one line what was wrong and what to do,
and knows the exit status that the command ends with. A fault of ours is `EngineBug`,
which is not in the tree: it is to be reported, not handled.
"""

from __future__ import annotations

import errno

__all__ = [
    "AlreadyTraced",
    "BadAddress",
    "BadFilter",
    "BadSpec",
    "CommandEnded",
    "CommandNotExecutable",
    "CommandNotFound",
    "EngineBug",
    "EngineStopped",
    "HandlerLoadError",
    "HitIsOver",
    "InputError",
    "InstructionRefused",
    "LineNotFound",
    "MarkerNotFound",
    "MemoryFault",
    "ModuleNotLoaded",
    "NoSuchProcess",
    "NoThreadToUse",
    "NotPermitted",
    "OutOfReach",
    "OutputError",
    "RemoteCallFailed",
    "SymbolNotFound",
    "UnreadableElf",
    "UnsupportedTracee",
    "UprobesError",
    "UsageError",
]


def _again(kind: type[UprobesError], args: tuple[object, ...], facts: dict[str, object]) -> object:
    error = kind.__new__(kind, *args)
    error.args = args
    for name, value in facts.items():
        setattr(error, name, value)
    return error


class UprobesError(Exception):
    """The root: something that the user asked for cannot be had."""

    exit_status = 1
    """What the command exits with when this error ends it."""

    def __reduce__(self) -> tuple[object, ...]:
        """For pickle, as between processes: leaves are made of facts, not of their text."""
        facts = dict(self.__dict__)
        if isinstance(self, OSError):
            facts.update(errno=self.errno, strerror=self.strerror)
        return _again, (type(self), self.args, facts)


class UsageError(UprobesError):
    """The command line, or a call's arguments, make no sense."""

    exit_status = 2


class NoSuchProcess(UprobesError, ProcessLookupError):
    """No process, or no thread, has this number (any more)."""

    def __init__(self, pid: int, detail: str = "") -> None:
        self.pid = pid
        super().__init__(f"no process has the pid {pid}{detail}")
        self.errno = errno.ESRCH


class NotPermitted(UprobesError, PermissionError):
    """The kernel does not let us trace this process."""

    def __init__(self, pid: int, why: str) -> None:
        self.pid = pid
        super().__init__(f"may not trace process {pid}: {why}")
        self.errno = errno.EPERM


class AlreadyTraced(NotPermitted):
    """Another tracer holds the process; Linux allows one at a time."""

    def __init__(self, pid: int, tracer: int, tracer_name: str) -> None:
        self.tracer = tracer
        self.tracer_name = tracer_name
        super().__init__(
            pid, f"it is already traced by {tracer_name} (pid {tracer}); stop that tracer first"
        )


class UnsupportedTracee(UprobesError):
    """A process that can be traced but not probed: a zombie, a kernel thread, a 32-bit one."""

    def __init__(self, pid: int, why: str) -> None:
        self.pid = pid
        super().__init__(f"cannot probe process {pid}: {why}")


def printable(text: str) -> str:
    """The text with what would break a line, or disturb a terminal, written as escapes."""
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # A byte that is no UTF-8 (os.fsdecode, "surrogateescape").
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _quoted_at(text: str, position: int) -> str:
    """`'TEXT' at character N`, which counts what is printed; a long text is cut around it."""
    start = max(0, position - 100) if len(text) > 200 else 0
    end = start + 200
    before, after = printable(text[start:position]), printable(text[position:end])
    head, tail = "..." * (start > 0), "..." * (end < len(text))
    return f"'{head}{before}{after}{tail}' at character {len(head) + len(before) + 1}"


class BadSpec(UsageError, ValueError):
    """A probe's SPEC that does not parse; `position` is where, counted from 0."""

    def __init__(self, spec: str, position: int, why: str) -> None:
        self.spec = spec
        self.position = position
        self.why = why
        super().__init__(f"bad probe {_quoted_at(spec, position)}: {why}")


class BadFilter(UsageError, ValueError):
    """A filter that does not parse, or does not fit the fields; `position` counts from 0."""

    def __init__(self, text: str, position: int, why: str) -> None:
        self.text = text
        self.position = position
        super().__init__(f"bad filter {_quoted_at(text, position)}: {why}")


class SymbolNotFound(UprobesError, LookupError):
    """No module that could hold the name has it; `close` are names that it does have."""

    def __init__(self, name: str, where: str, close: tuple[str, ...] = ()) -> None:
        self.name = name
        self.where = where
        self.close = close
        hint = f"; close names: {', '.join(close)}" if close else ""
        super().__init__(f"no symbol {name!r} in {where}{hint}")


class LineNotFound(UprobesError, LookupError):
    """A line of a source file that has no code, or a source file that nothing was made of."""

    def __init__(self, file: str, line: int, why: str) -> None:
        self.file = file
        self.line = line
        super().__init__(why)


class MarkerNotFound(UprobesError, LookupError):
    """No module that could hold the USDT marker has it; `close` are some that it does have."""

    def __init__(self, name: str, where: str, close: tuple[str, ...]) -> None:
        self.name = name
        self.where = where
        self.close = close
        hint = f"; there are: {', '.join(close)}" if close else ", nor any other"
        super().__init__(f"no USDT marker {name!r} in {where}{hint}")


class ModuleNotLoaded(UprobesError, LookupError):
    """No loaded program or library is what the user called it; `loaded` are those there are."""

    def __init__(self, name: str, loaded: tuple[str, ...]) -> None:
        self.name = name
        self.loaded = loaded
        shown = ", ".join(loaded[:8]) + (", ..." if len(loaded) > 8 else "")
        super().__init__(f"no module {name!r} is loaded; there are: {shown or 'none'}")


class BadAddress(UprobesError, ValueError):
    """An address that holds no code, or lies inside an instruction."""

    def __init__(self, address: int, why: str) -> None:
        self.address = address
        super().__init__(f"cannot probe address {address:#x}: {why}")


class InstructionRefused(UprobesError):
    """The instruction at the place cannot be executed elsewhere faithfully."""

    def __init__(self, spec: str, address: int, instruction: str, why: str) -> None:
        self.spec = spec
        self.address = address
        self.instruction = instruction
        self.why = why
        super().__init__(f"cannot probe {spec} at {address:#x} ({instruction}): {why}")


class UnreadableElf(UprobesError):
    """A file that is no ELF file, is cut short, or contradicts itself."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        super().__init__(f"cannot read {path}: {why}")


class MemoryFault(UprobesError, OSError):
    """Tracee memory that is not mapped, or whose backing cannot be had."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        super().__init__(f"no memory to access at {address:#x} ({size} bytes)")


class CommandNotFound(UprobesError, FileNotFoundError):
    """The COMMAND to launch does not exist."""

    exit_status = 127

    def __init__(self, command: str) -> None:
        self.command = command
        super().__init__(f"command not found: {command}")


class CommandNotExecutable(UprobesError, PermissionError):
    """The COMMAND to launch exists and cannot be executed."""

    exit_status = 126

    def __init__(self, command: str, why: str) -> None:
        self.command = command
        super().__init__(f"cannot execute {command}: {why}")


class CommandEnded(UprobesError):
    """The COMMAND was killed before its first instruction; the exit status is its own."""

    def __init__(self, command: str, number: int) -> None:
        self.command = command
        self.number = number
        self.exit_status = 128 + number
        super().__init__(f"{command} was killed by signal {number} before it began")


class HandlerLoadError(UprobesError, ImportError):
    """A handler file that does not import, or lacks the named function."""


class InputError(UprobesError, OSError):
    """A file that is to be read and cannot be; `why` is the reason."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(f"cannot read {path}: {why}")


class OutputError(UprobesError, OSError):
    """The output file cannot be opened or written."""


class HitIsOver(UprobesError, RuntimeError):
    """A `Hit` was asked for tracee state after its thread had been resumed."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"hit.{what} was used after the handler returned; "
            "read it inside the handler and keep the value"
        )


class EngineStopped(UprobesError, RuntimeError):
    """A call on an engine that has stopped or detached."""

    def __init__(self) -> None:
        super().__init__("the engine has stopped: no process is traced any more")


class OutOfReach(UprobesError):
    """A displacement that cannot be mended from the slot's place."""

    def __init__(self, slot: int, target: int) -> None:
        self.slot = slot
        self.target = target
        super().__init__(f"{target:#x} is out of reach from a slot at {slot:#x}")


class RemoteCallFailed(UprobesError, OSError):
    """A system call or function that was run inside the tracee did not succeed."""


class NoThreadToUse(RemoteCallFailed):
    """Every thread waits where none can be stopped, as for a vfork child; it will not be long."""


class EngineBug(RuntimeError):
    """A fault of ours: state that our own rules exclude. Please report it."""
