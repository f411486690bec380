"""Registered handlers: only these can be associated with a breakpoint, and only by name."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from ptrace_uprobes.probe import Handler
from ptrace_uprobes.utrace.refusals import AlreadyThere, HandlerInUse, InvalidRequest

__all__ = ["Registration", "borrow", "give_back", "register_handler", "unregister_handler"]


@dataclass(slots=True)
class Registration:
    """A name, its function, and how many breakpoints are associated with it."""

    name: str
    function: Handler
    users: int = 0


_lock = threading.RLock()
_registered: dict[str, Registration] = {}


def _begin_in_fork_child() -> None:
    """Another thread may have held the lock, and the breakpoints are the parent's."""
    global _lock
    _lock = threading.RLock()
    for registration in _registered.values():
        registration.users = 0


os.register_at_fork(after_in_child=_begin_in_fork_child)


def register_handler(name: str, function: Handler) -> None:
    """Make `function(hit)` known as `name`; it is called once a breakpoint is associated.

    It may sleep: it runs on a thread of its own, and only the thread that hit waits for it.
    Raises `AlreadyThere` (EEXIST) for a name that is taken, `InvalidRequest` (EINVAL) for
    what is no name or cannot be called.
    """
    if not _is_name(name):
        raise InvalidRequest(f"a handler's name is a string, not {name!r}")
    if not callable(function):
        raise InvalidRequest(f"the handler {name!r} cannot be called: {function!r}")
    with _lock:
        if name in _registered:
            raise AlreadyThere(f"a handler {name!r} is registered already")
        _registered[name] = Registration(name, function)


def unregister_handler(name: str) -> None:
    """Forget the handler; its name can be registered again.

    Like a kernel module in use, a handler that breakpoints are associated with stays:
    `HandlerInUse` (EBUSY). Remove them first, with `utrace_rmbp`. A call of it that has begun
    is not waited for. Raises `InvalidRequest` (EINVAL) for a name that is not registered.
    """
    with _lock:
        registration = _find(name)
        if registration.users:
            raise HandlerInUse(
                f"{registration.users} breakpoint(s) are associated with the handler {name!r}; "
                "remove them first"
            )
        del _registered[name]


def borrow(name: str) -> Registration:
    """The handler of that name, kept from being unregistered until `give_back`."""
    with _lock:
        registration = _find(name)
        registration.users += 1
        return registration


def give_back(registration: Registration) -> None:
    """One breakpoint less is associated with it."""
    with _lock:
        registration.users -= 1


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _find(name: str) -> Registration:
    registration = _registered.get(name) if _is_name(name) else None
    if registration is None:
        raise InvalidRequest(f"no handler {name!r} is registered")
    return registration
