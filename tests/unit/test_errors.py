"""Every error that a user can meet is one line, knows its facts, and how the command ends."""

from __future__ import annotations

import inspect
import pickle

import pytest

from ptrace_uprobes import errors
from ptrace_uprobes.errors import (
    AlreadyTraced,
    BadAddress,
    BadFilter,
    BadSpec,
    CommandEnded,
    CommandNotExecutable,
    CommandNotFound,
    EngineBug,
    EngineStopped,
    HandlerLoadError,
    HitIsOver,
    InputError,
    InstructionRefused,
    LineNotFound,
    MarkerNotFound,
    MemoryFault,
    ModuleNotLoaded,
    NoSuchProcess,
    NoThreadToUse,
    NotPermitted,
    OutOfReach,
    OutputError,
    RemoteCallFailed,
    SymbolNotFound,
    UnreadableElf,
    UnsupportedTracee,
    UprobesError,
    UsageError,
)

EXAMPLES: list[tuple[UprobesError, str, int, type[Exception]]] = [
    (UprobesError("no"), "no", 1, Exception),
    (UsageError("no process to attach to"), "no process to attach to", 2, Exception),
    (NoSuchProcess(42), "no process has the pid 42", 1, ProcessLookupError),
    (NoSuchProcess(42, " any more"), "no process has the pid 42 any more", 1, ProcessLookupError),
    (NotPermitted(42, "Yama"), "may not trace process 42: Yama", 1, PermissionError),
    (
        AlreadyTraced(42, 7, "gdb"),
        "may not trace process 42: it is already traced by gdb (pid 7); stop that tracer first",
        1,
        PermissionError,
    ),
    (UnsupportedTracee(42, "a zombie"), "cannot probe process 42: a zombie", 1, Exception),
    (BadSpec("a b", 1, "a blank"), "bad probe 'a b' at character 2: a blank", 2, ValueError),
    (BadFilter("a", 1, "an end"), "bad filter 'a' at character 2: an end", 2, ValueError),
    (SymbolNotFound("mallocc", "libc.so.6"), "no symbol 'mallocc' in libc.so.6", 1, LookupError),
    (
        SymbolNotFound("mallocc", "libc.so.6", ("malloc", "calloc")),
        "no symbol 'mallocc' in libc.so.6; close names: malloc, calloc",
        1,
        LookupError,
    ),
    (ModuleNotLoaded("m", ()), "no module 'm' is loaded; there are: none", 1, LookupError),
    (
        ModuleNotLoaded("m", tuple("abcdefgh")),
        "no module 'm' is loaded; there are: a, b, c, d, e, f, g, h",
        1,
        LookupError,
    ),
    (
        ModuleNotLoaded("m", tuple("abcdefghi")),
        "no module 'm' is loaded; there are: a, b, c, d, e, f, g, h, ...",
        1,
        LookupError,
    ),
    (
        LineNotFound("a.c", 3, "line 3 of a.c has no code"),
        "line 3 of a.c has no code",
        1,
        LookupError,
    ),
    (
        MarkerNotFound("p:begun", "prog", ("p:begin",)),
        "no USDT marker 'p:begun' in prog; there are: p:begin",
        1,
        LookupError,
    ),
    (
        MarkerNotFound("begin", "prog", ()),
        "no USDT marker 'begin' in prog, nor any other",
        1,
        LookupError,
    ),
    (BadAddress(0x10, "it is data"), "cannot probe address 0x10: it is data", 1, ValueError),
    (
        InstructionRefused("f+1", 0x11, "int3", "a breakpoint"),
        "cannot probe f+1 at 0x11 (int3): a breakpoint",
        1,
        Exception,
    ),
    (UnreadableElf("/a", "cut short"), "cannot read /a: cut short", 1, Exception),
    (MemoryFault(0x10, 8), "no memory to access at 0x10 (8 bytes)", 1, OSError),
    (CommandNotFound("sorrt"), "command not found: sorrt", 127, FileNotFoundError),
    (
        CommandNotExecutable("/etc", "it is a directory"),
        "cannot execute /etc: it is a directory",
        126,
        PermissionError,
    ),
    (CommandEnded("sort", 9), "sort was killed by signal 9 before it began", 137, UprobesError),
    (HandlerLoadError("no function f in a.py"), "no function f in a.py", 1, ImportError),
    (InputError("/a", "it is a device"), "cannot read /a: it is a device", 1, OSError),
    (OutputError("cannot write out.txt"), "cannot write out.txt", 1, OSError),
    (
        HitIsOver("read"),
        (
            "hit.read was used after the handler returned; "
            "read it inside the handler and keep the value"
        ),
        1,
        RuntimeError,
    ),
    (EngineStopped(), "the engine has stopped: no process is traced any more", 1, RuntimeError),
    (OutOfReach(0x10, 0x20), "0x20 is out of reach from a slot at 0x10", 1, Exception),
    (RemoteCallFailed(12, "no memory"), "[Errno 12] no memory", 1, OSError),
    (NoThreadToUse("none can be stopped"), "none can be stopped", 1, OSError),
]
KINDS = {type(error) for error, *_ in EXAMPLES}


@pytest.mark.parametrize(("error", "text", "status", "parent"), EXAMPLES)
def test_each_error_says_what_was_wrong_in_one_line_and_how_the_command_ends(
    error: UprobesError, text: str, status: int, parent: type[Exception]
) -> None:
    assert str(error) == text
    assert "\n" not in text
    assert error.exit_status == status
    assert isinstance(error, parent)


def test_every_error_of_the_tree_is_among_these() -> None:
    declared = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, UprobesError)
    }
    assert declared == KINDS
    assert {kind.__name__ for kind in declared} | {"EngineBug"} == set(errors.__all__)


def test_a_bug_of_ours_is_no_error_of_the_users() -> None:
    assert not issubclass(EngineBug, UprobesError)


def test_the_facts_are_attributes() -> None:
    traced = AlreadyTraced(42, 7, "gdb")
    assert (traced.pid, traced.tracer, traced.tracer_name) == (42, 7, "gdb")
    spec = BadSpec("a b", 1, "a blank")
    assert (spec.spec, spec.position) == ("a b", 1)
    symbol = SymbolNotFound("mallocc", "libc.so.6", ("malloc",))
    assert (symbol.name, symbol.where, symbol.close) == ("mallocc", "libc.so.6", ("malloc",))
    refused = InstructionRefused("f+1", 0x11, "int3", "a breakpoint")
    assert (refused.spec, refused.address, refused.why) == ("f+1", 0x11, "a breakpoint")
    fault = MemoryFault(0x10, 8)
    assert (fault.address, fault.size) == (0x10, 8)
    reach = OutOfReach(0x10, 0x20)
    assert (reach.slot, reach.target) == (0x10, 0x20)
    assert RemoteCallFailed(12, "no memory").errno == 12
    assert ModuleNotLoaded("m", ("a",)).loaded == ("a",)


def test_addresses_are_numbers_to_whoever_uses_them() -> None:
    from ptrace_uprobes.addresses import ElfAddr, FileOffset, VirtAddr

    # Distinct to the type checker, and free of cost at run time.
    assert [kind(5) + 1 for kind in (VirtAddr, ElfAddr, FileOffset)] == [6, 6, 6]
    assert pickle.loads(pickle.dumps(VirtAddr(5))) == 5
