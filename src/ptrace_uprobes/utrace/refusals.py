"""The calls' errors, by errno, and which of them an error of the engine's comes to.

| errno | when |
|---|---|
| EPERM | the caller may not ptrace the process (ptrace(2)), or nobody can |
| ESRCH | no such process, no such breakpoint, nothing known of the pid |
| EINVAL | the arguments make no sense, or the address cannot hold a breakpoint |
| EEXIST | a breakpoint is there already, a name is taken |
| EBUSY | a handler is to go that breakpoints are associated with |
| EAGAIN | none of its threads can be stopped just now, as during a vfork |
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from ptrace_uprobes.errors import (
    CommandNotExecutable,
    CommandNotFound,
    EngineStopped,
    MemoryFault,
    NoSuchProcess,
    NotPermitted,
    RemoteCallFailed,
    UnsupportedTracee,
    UprobesError,
    UsageError,
)

__all__ = [
    "AlreadyThere",
    "CannotBeTraced",
    "HandlerInUse",
    "InvalidRequest",
    "NothingThere",
    "UtraceError",
    "is_number",
    "with_errno",
]


class UtraceError(UprobesError, OSError):
    """What a call of this interface refuses; `errno` says why as a system call would."""

    number: ClassVar[int] = errno.EINVAL

    def __init__(self, why: str) -> None:
        super().__init__(self.number, why)

    def __str__(self) -> str:
        return str(self.strerror)


class InvalidRequest(UtraceError, UsageError, ValueError):
    """EINVAL: arguments that make no sense, or an address that cannot hold a breakpoint."""


class AlreadyThere(UtraceError, FileExistsError):
    """EEXIST: the process has a breakpoint at the address, or a handler has the name."""

    number = errno.EEXIST


class NothingThere(UtraceError, ProcessLookupError):
    """ESRCH: the process has no breakpoint at the address, or none was ever set in it."""

    number = errno.ESRCH


class CannotBeTraced(UtraceError, PermissionError):
    """EPERM: a process that can be ptraced, or not even that, and not probed."""

    number = errno.EPERM


class HandlerInUse(UtraceError):
    """EBUSY: breakpoints are associated with the handler."""

    number = errno.EBUSY


def is_number(value: object) -> bool:
    """An integer, as arguments are checked: True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


@contextmanager
def with_errno() -> Iterator[None]:
    """Errors of the engine's leave with an errno: as they are where they are `OSError`s."""
    try:
        yield
    except UtraceError:
        raise
    except NoSuchProcess as error:
        error.errno = errno.ESRCH
        raise
    except NotPermitted as error:
        error.errno = errno.EPERM
        raise
    except CommandNotFound as error:
        error.errno = error.errno or errno.ENOENT
        raise
    except CommandNotExecutable as error:
        error.errno = error.errno or errno.EACCES
        raise
    except UnsupportedTracee as error:
        raise CannotBeTraced(str(error)) from error
    except EngineStopped as error:
        raise NothingThere("the program has ended") from error
    except MemoryFault as error:
        # An address that the caller gave is `BadAddress` instead: its memory goes with a program.
        raise NothingThere("the program has ended or become another meanwhile") from error
    except RemoteCallFailed as error:
        error.errno = error.errno or errno.EAGAIN
        raise
    except UprobesError as error:
        raise InvalidRequest(str(error)) from error
