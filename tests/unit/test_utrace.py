"""The proposal's calls, as far as no process is needed: arguments, names, errors, the log."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrace_uprobes import errors
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS
from ptrace_uprobes.utrace import (
    UTRACE_GETDATA,
    UTRACE_GETREGS,
    UTRACE_HANDLER,
    UTRACE_KHANDLER,
    AlreadyThere,
    HandlerInUse,
    InvalidRequest,
    NothingThere,
    Record,
    Records,
    UtraceError,
    handlers,
    register_handler,
    unregister_handler,
    utrace_addbp,
    utrace_launch,
    utrace_lsbp,
    utrace_read,
    utrace_rmbp,
    utrace_setbp,
)
from ptrace_uprobes.utrace.breakpoint import LONGEST_DATA, Order
from ptrace_uprobes.utrace.log import Entry, Log
from ptrace_uprobes.utrace.refusals import with_errno

NO_SUCH_PID = 2**22 + 1
"""Above the kernel's PID_MAX_LIMIT."""


# -- arguments

BAD_REQUESTS: list[tuple[object, ...]] = [
    (0x401000, 0),
    (0x401000, -1),
    (0x401000, 0x10),
    (0x401000, 0x100 | UTRACE_GETREGS),
    (0x401000, 1.0),
    (0x401000, "regs"),
    (0x401000, None),
    (0x401000, UTRACE_HANDLER),
    (0x401000, UTRACE_GETREGS, "a name that nobody asked for"),
    (0x401000, UTRACE_GETDATA, None, -1),
    (0x401000, UTRACE_GETDATA, None, LONGEST_DATA + 1),
    (0x401000, UTRACE_GETDATA, None, 1.5),
    (0x401000, UTRACE_GETREGS, None, 8),
    (-1, UTRACE_GETREGS),
    (1 << 64, UTRACE_GETREGS),
    (None, UTRACE_GETREGS),
    (b"libc:malloc", UTRACE_GETREGS),
    ("", UTRACE_GETREGS),
    ("libc:malloc\0", UTRACE_GETREGS),
    ("libc:mem*", UTRACE_GETREGS),
    ("libc:malloc%return", UTRACE_GETREGS),
    ("libc:malloc %di", UTRACE_GETREGS),
]


@pytest.mark.parametrize("arguments", BAD_REQUESTS, ids=repr)
def test_arguments_that_make_no_sense_are_einval_before_the_pid_is_looked_at(
    arguments: tuple[object, ...],
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        utrace_addbp(NO_SUCH_PID, *arguments)  # type: ignore[arg-type]
    assert caught.value.errno == errno.EINVAL
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, errors.UprobesError)
    assert "\n" not in str(caught.value)
    # AND utrace_launch asks the same
    with pytest.raises(InvalidRequest):
        utrace_launch(["/nonexistent"], [arguments])


@given(
    vaddr=st.one_of(st.integers(), st.text(max_size=20), st.none(), st.floats()),
    request=st.one_of(st.integers(-2, 20), st.integers(), st.text(max_size=3)),
    name=st.one_of(st.none(), st.text(max_size=5)),
    length=st.one_of(st.integers(-5, 70000), st.integers(), st.booleans()),
)
@settings(max_examples=200)
def test_any_arguments_are_an_order_or_einval(
    vaddr: object, request: object, name: str | None, length: object
) -> None:
    try:
        order = Order.checked(vaddr, request, name, length)  # type: ignore[arg-type]
    except InvalidRequest as error:
        number = error.errno
    else:
        number = errno.EINVAL
        assert (order.vaddr, order.request, order.length) == (vaddr, request, length)
        assert 0 < order.request < 16
        assert 0 <= order.length <= LONGEST_DATA
    assert number == errno.EINVAL


@pytest.mark.parametrize(
    "breakpoints", [[()], [(0x401000,)], [(1, 2, None, 0, 5)], [7], ["ab"], [{1: 2}]], ids=repr
)
def test_what_is_no_breakpoint_is_einval_and_nothing_is_started(breakpoints: list[object]) -> None:
    with pytest.raises(InvalidRequest):
        utrace_launch(["/nonexistent"], breakpoints)  # type: ignore[arg-type]


@pytest.mark.parametrize("argv", ["sort", b"sort", [b"sort"], [1]], ids=repr)
def test_a_command_that_is_none_is_einval(argv: object) -> None:
    with pytest.raises(InvalidRequest):
        utrace_launch(argv, [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argv", "number"),
    [
        ([], errno.ENOENT),
        (["/nonexistent"], errno.ENOENT),
        (["/dev/null/true"], errno.ENOTDIR),
        (["/"], errno.EACCES),
        (["true", "x" * 300_000], errno.E2BIG),  # MAX_ARG_STRLEN is 128 KiB
        (["{folder}/empty"], errno.ENOEXEC),
        (["{folder}/script"], errno.ENOENT),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:20],
)
def test_a_command_that_cannot_be_run_has_the_errno_of_exec(
    argv: list[str], number: int, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch(0o755)
    (tmp_path / "script").touch(0o755)
    (tmp_path / "script").write_text("#!/nonexistent\n")
    with pytest.raises(OSError, match=r"command|execute") as caught:
        utrace_launch([word.format(folder=tmp_path) for word in argv], [(0x401000, UTRACE_GETREGS)])
    assert caught.value.errno == number
    assert isinstance(caught.value, errors.UprobesError)


# -- pids

CALLS: list[Callable[[int], object]] = [
    lambda pid: utrace_addbp(pid, 0x401000, UTRACE_GETREGS),
    lambda pid: utrace_rmbp(pid, 0x401000),
    lambda pid: utrace_setbp(pid, 0x401000, False),
    utrace_lsbp,
    utrace_read,
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("pid", [0, -1, NO_SUCH_PID, 2**40])
def test_a_pid_that_no_process_has_is_esrch(call: Callable[[int], object], pid: int) -> None:
    with pytest.raises(ProcessLookupError) as caught:
        call(pid)
    assert caught.value.errno == errno.ESRCH
    assert isinstance(caught.value, errors.UprobesError)


@pytest.mark.parametrize("pid", ["1", None, 1.0, True])
def test_a_pid_that_is_no_number_is_refused(pid: object) -> None:
    for call in CALLS:
        with pytest.raises(InvalidRequest):
            call(pid)  # type: ignore[arg-type]


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),
    st.binary(max_size=3),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.integers(), st.none(), max_size=1),
    st.just(NO_SUCH_PID),
    st.just(0x401000),
    st.just("main"),
    st.just("\0"),
)
ALL: dict[Callable[..., object], int] = {
    utrace_addbp: 5,
    utrace_rmbp: 2,
    utrace_setbp: 3,
    utrace_lsbp: 1,
    utrace_read: 2,
    utrace_launch: 2,
    register_handler: 2,
    unregister_handler: 1,
}


@pytest.mark.parametrize("call", ALL, ids=lambda call: call.__name__)
@given(data=st.data())
@settings(max_examples=150)
def test_whatever_is_given_to_a_call_its_error_is_an_errno_of_ours(
    call: Callable[..., object], data: st.DataObject
) -> None:
    arguments = [data.draw(ANYTHING) for _ in range(ALL[call])]
    if call is not register_handler and isinstance(arguments[0], int):
        arguments[0] = data.draw(st.sampled_from([NO_SUCH_PID, -1, 0, True, 2**70]))
    if call is utrace_launch:
        arguments[0] = ["/nonexistent", arguments[0]]
    if call is register_handler:
        arguments[1] = None  # else it is one
    with pytest.raises(errors.UprobesError) as caught:
        call(*arguments)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno in (errno.EINVAL, errno.ESRCH, errno.ENOENT)


@pytest.mark.parametrize("argv", [["true", "a\0b"], ["tr\0ue"], ["true", "\ud800"]], ids=ascii)
def test_a_word_that_no_program_can_be_given_is_einval_and_not_cut(argv: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        utrace_launch(argv, [])
    assert caught.value.errno == errno.EINVAL


def test_the_proposals_name_of_the_handler_bit_is_the_same_bit() -> None:
    assert UTRACE_KHANDLER == UTRACE_HANDLER


# -- handlers


def test_only_a_registered_name_can_be_associated() -> None:
    with pytest.raises(InvalidRequest, match="no handler 'kfree' is registered"):
        handlers.borrow("kfree")


def test_a_name_is_registered_once_and_again_after_it_was_unregistered() -> None:
    register_handler("once", print)
    try:
        with pytest.raises(AlreadyThere) as caught:
            register_handler("once", print)
        assert caught.value.errno == errno.EEXIST
        assert isinstance(caught.value, FileExistsError)
    finally:
        unregister_handler("once")
    register_handler("once", print)
    unregister_handler("once")
    with pytest.raises(InvalidRequest) as unknown:
        unregister_handler("once")
    assert unknown.value.errno == errno.EINVAL


def test_a_handler_in_use_cannot_be_unregistered() -> None:
    register_handler("in use", print)
    first, second = handlers.borrow("in use"), handlers.borrow("in use")
    handlers.give_back(first)
    with pytest.raises(HandlerInUse) as caught:
        unregister_handler("in use")
    assert caught.value.errno == errno.EBUSY
    handlers.give_back(second)
    unregister_handler("in use")


@pytest.mark.parametrize(("name", "function"), [("", print), (None, print), (3, print), ("x", 4)])
def test_what_is_no_handler_is_einval(name: object, function: object) -> None:
    with pytest.raises(InvalidRequest):
        register_handler(name, function)  # type: ignore[arg-type]


# -- errors of the engine's


@pytest.mark.parametrize(
    ("error", "kind", "number"),
    [
        (errors.NoSuchProcess(5), ProcessLookupError, errno.ESRCH),
        (errors.NotPermitted(5, "no"), PermissionError, errno.EPERM),
        (errors.AlreadyTraced(5, 6, "gdb"), errors.AlreadyTraced, errno.EPERM),
        (errors.UnsupportedTracee(5, "a zombie"), PermissionError, errno.EPERM),
        (errors.EngineStopped(), ProcessLookupError, errno.ESRCH),
        (errors.BadAddress(5, "no code"), InvalidRequest, errno.EINVAL),
        (errors.SymbolNotFound("a", "b"), InvalidRequest, errno.EINVAL),
        (errors.ModuleNotLoaded("a", ()), InvalidRequest, errno.EINVAL),
        (errors.InstructionRefused("a", 1, "int3", "no"), InvalidRequest, errno.EINVAL),
        (errors.BadSpec("a", 0, "no"), InvalidRequest, errno.EINVAL),
        (errors.MemoryFault(5, 1), NothingThere, errno.ESRCH),
        (errors.RemoteCallFailed(0, "not now"), errors.RemoteCallFailed, errno.EAGAIN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_of_the_engines_leaves_with_an_errno(
    error: Exception, kind: type[OSError], number: int
) -> None:
    with pytest.raises(kind) as caught, with_errno():
        raise error
    assert caught.value.errno == number
    assert isinstance(caught.value, errors.UprobesError)
    told_anew = isinstance(error, (errors.EngineStopped, errors.MemoryFault))
    assert told_anew or str(caught.value).endswith(str(error))


def test_a_fault_of_ours_is_not_given_an_errno() -> None:
    with pytest.raises(errors.EngineBug), with_errno():
        raise errors.EngineBug("ours")


def test_every_refusal_is_an_oserror_of_its_builtin_kind() -> None:
    for kind, number in ((InvalidRequest, 22), (AlreadyThere, 17), (NothingThere, 3)):
        refusal = kind("why")
        assert isinstance(refusal, UtraceError)
        assert (refusal.errno, refusal.strerror, str(refusal)) == (number, "why", "why")


# -- the log


def _entry(number: int, data: bytes | None = None, registers: bytes | None = None) -> Entry:
    return Entry(1, 2, number, 0x401000, 0x401000, registers, data, None)


def _log(limit: int = 1 << 20) -> Log:
    log = Log(limit)
    log.reopen()
    return log


def _times(records: Iterator[Record]) -> list[int]:
    return [record.time_ns for record in records]


def test_records_are_given_once_in_order_and_end_with_the_log() -> None:
    log = _log()
    for number in range(5):
        log.add(_entry(number))
    drained: list[bool] = []
    first = Records(log, 0, lambda: drained.append(True))
    assert next(first).time_ns == 0
    assert _times(Records(log, 0, lambda: drained.append(True))) == [1, 2, 3, 4]
    # Quiet, but open: nobody may forget it.
    assert drained == []
    log.close(7, None)
    last = Records(log, None, lambda: drained.append(True))
    assert (_times(last), last.exit_status, drained) == ([], 7, [True])
    # AND an iterator that has ended stays so
    log.reopen()
    log.add(_entry(9))
    assert _times(last) == []


@given(
    sizes=st.lists(st.integers(0, 2000), max_size=60),
    limit=st.integers(1, 20000),
    read_after=st.integers(0, 60),
)
@settings(max_examples=100)
def test_the_log_is_bounded_and_what_it_lost_is_counted(
    sizes: list[int], limit: int, read_after: int
) -> None:
    log = _log(limit)
    seen: list[Record] = []
    for number, size in enumerate(sizes):
        log.add(_entry(number, bytes(size)))
        kept = [entry.cost() for entry in log._entries]
        assert sum(kept) == log._size
        assert log._size <= limit or len(kept) == 1
        if number == read_after:
            seen.extend(Records(log, 0, lambda: None))
    log.close(None, None)
    seen.extend(Records(log, None, lambda: None))
    # THEN every record was given, or counted just before the next one that was
    expected = 0
    for record in seen:
        expected += record.lost
        assert record.time_ns == expected
        expected += 1
    assert expected == len(sizes)


def test_registers_are_given_by_name() -> None:
    log = _log()
    raw = b"".join(value.to_bytes(8, "little") for value in range(len(USER_OFFSETS)))
    log.add(_entry(0, registers=raw))
    (record,) = Records(log, 0, lambda: None)
    assert record.regs is not None
    assert record.regs == {name: offset // 8 for name, offset in USER_OFFSETS.items()}
    assert record.data is None
    assert record.stack is None


def test_a_record_cannot_be_changed() -> None:
    log = _log()
    log.add(_entry(0))
    (record,) = Records(log, 0, lambda: None)
    with pytest.raises(AttributeError):
        record.tid = 5  # type: ignore[misc]


def test_a_reader_waits_until_something_is_logged_or_the_log_is_closed() -> None:
    log = _log()
    seen: list[int] = []
    got_one = threading.Event()

    def read() -> None:
        for record in Records(log, None, lambda: None):
            seen.append(record.time_ns)
            got_one.set()

    reader = threading.Thread(target=read)
    reader.start()
    log.add(_entry(1))
    assert got_one.wait(10)
    log.close(None, None)
    reader.join(10)
    assert not reader.is_alive()
    assert seen == [1]


def test_several_readers_share_the_records() -> None:
    log = _log()
    seen: list[list[int]] = [[], [], []]
    readers = [
        threading.Thread(
            target=lambda mine=mine: mine.extend(_times(Records(log, None, lambda: None)))
        )
        for mine in seen
    ]
    for reader in readers:
        reader.start()
    for number in range(3000):
        log.add(_entry(number))
    log.close(None, None)
    for reader in readers:
        reader.join(10)
    assert sorted(chain.from_iterable(seen)) == list(range(3000))
    assert all(mine == sorted(mine) for mine in seen)


def test_a_fault_of_the_engines_is_raised_where_the_log_ends() -> None:
    log = _log()
    log.add(_entry(1))
    log.close(None, errors.EngineBug("ours"))
    records = Records(log, None, lambda: None)
    assert next(records).time_ns == 1
    with pytest.raises(errors.EngineBug):
        next(records)
    assert list(records) == []


def test_a_stack_costs_room_in_the_log() -> None:
    assert _entry(0)._replace(stack=(1, 2, 3)).cost() > _entry(0).cost()  # type: ignore[arg-type]
