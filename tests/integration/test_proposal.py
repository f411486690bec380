"""The 2007 proposal, promise by promise: docs/proposal.md names the tests of this file."""

from __future__ import annotations

import ast
import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes import errors
from ptrace_uprobes.utrace import (
    UTRACE_GETDATA,
    UTRACE_GETREGS,
    UTRACE_HANDLER,
    UTRACE_STACKTRACE,
    register_handler,
    unregister_handler,
    utrace_addbp,
    utrace_launch,
    utrace_lsbp,
    utrace_read,
    utrace_rmbp,
    utrace_setbp,
)
from tests.support.build import build_target
from tests.support.elf_tools import functions, instruction_addresses
from tests.support.let_go import UNHARMED, assert_let_go
from tests.support.oracle import require_tracefs
from tests.support.procfs import altered_text, process_state, status_fields, wait_until
from tests.support.target import start_target

ROOT = Path(__file__).resolve().parents[2]
FIXED = ("-no-pie", "-fno-pie")

Register = Callable[[str, Callable[[pu.Hit], object]], str]


@pytest.fixture
def register() -> Iterator[Register]:
    """Registers handlers, and unregisters them at the end of the test."""
    names: list[str] = []

    def add(name: str, function: Callable[[pu.Hit], object]) -> str:
        register_handler(name, function)
        names.append(name)
        return name

    yield add
    for name in names:
        try:
            unregister_handler(name)
        except errors.UprobesError:
            continue  # the test has done so


def address_in(pid: int, program: Path, function: str) -> int:
    """Where a function of a running PIE is: its address as nm prints it, plus where it was put."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith(str(program)):
            return int(line.partition("-")[0], 16) + functions(program)[function].address
    raise LookupError(f"{program} is not mapped in {pid}")


# -- the two usages


@pytest.mark.parametrize("flags", [(), FIXED], ids=["pie", "fixed"])
def test_a_function_of_a_program_yet_to_be_started_logs_registers_from_its_first_call(
    flags: tuple[str, ...],
) -> None:
    # GIVEN the address that binutils print of it
    program = build_target("hot_loop.c", *flags)
    vaddr = functions(program)["hot"].address

    # WHEN the program is launched with a breakpoint there
    pid = utrace_launch([str(program), "200"], [(vaddr, UTRACE_GETREGS)])
    records = utrace_read(pid)
    log = list(records)

    # THEN each of its 200 calls is there, with its second argument, in order of time
    assert [record.regs["rsi"] for record in log if record.regs] == list(range(200))
    assert {(record.pid, record.tid, record.vaddr) for record in log} == {(pid, pid, vaddr)}
    assert all(record.regs and record.regs["rip"] == record.address for record in log)
    assert [record.time_ns for record in log] == sorted(record.time_ns for record in log)
    assert sum(record.lost for record in log) == 0
    assert records.exit_status == 0
    if flags:
        assert {record.address for record in log} == {vaddr}


def test_a_library_routine_of_a_running_program_runs_a_registered_handler(
    register: Register, tmp_path: Path
) -> None:
    # GIVEN a Python that makes folders as long as it is asked to
    script = (
        "import os, sys\n"
        "for line in sys.stdin:\n"
        "    os.mkdir(line.rstrip())\n"
        "    print(flush=True)\n"
    )
    seen: list[bytes] = []
    register("uprobe_handler", lambda hit: seen.append(hit.read_string(hit.argument(0))))
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def make(name: str) -> str:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{tmp_path}/{name}\n")
        child.stdin.flush()
        child.stdout.readline()
        return f"{tmp_path}/{name}"

    try:
        make("before")
        # WHEN the handler is associated with mkdir for two calls of four
        utrace_addbp(child.pid, "libc:mkdir", UTRACE_HANDLER, "uprobe_handler")
        expected = [make("first"), make("second")]
        utrace_rmbp(child.pid, "libc:mkdir")
        make("after")

        # THEN it ran for these
        assert [os.fsdecode(name) for name in seen] == expected
        assert sorted(os.listdir(tmp_path)) == ["after", "before", "first", "second"]
    finally:
        child.stdin.close()
        child.stdout.close()
        assert child.wait(30) == 0


def test_sort_is_probed_in_its_library_before_it_begins(tmp_path: Path) -> None:
    # GIVEN a file, and what sort makes of it
    words = tmp_path / "words"
    words.write_text("".join(f"{n * 7919 % 1009}\n" for n in range(400)))
    right = subprocess.run(["sort", words], capture_output=True, check=True).stdout

    # WHEN every malloc of sort's is logged
    output = tmp_path / "sorted"
    pid = utrace_launch(["sort", str(words), "-o", str(output)], [("libc:malloc", UTRACE_GETREGS)])
    records = utrace_read(pid)
    sizes = [record.regs["rdi"] for record in records if record.regs]

    # THEN it sorted, and asked for memory that a program may have
    assert output.read_bytes() == right
    assert records.exit_status == 0
    assert sizes
    assert max(sizes) < 1 << 40


# -- what the predefined handlers log


def test_getdata_logs_length_bytes_at_the_first_argument_as_far_as_they_are_mapped() -> None:
    # GIVEN functions that get a string, a string at the end of memory, and bad pointers
    program = build_target("calls.c")
    known = functions(program)
    pid = utrace_launch(
        [str(program), "1"],
        [
            (known["length"].address, UTRACE_GETDATA, None, 12),
            (known["look"].address, UTRACE_GETDATA, None, 5000),
            (known["tick"].address, UTRACE_GETDATA),
        ],
    )
    data: dict[int | str, list[bytes | None]] = {}
    for record in utrace_read(pid):
        data.setdefault(record.vaddr, []).append(record.data)

    # THEN the length bounds what is read there
    assert data[known["length"].address] == [b"twelve chars", b"edges\0behind"]
    lazy, hidden, nothing = data[known["look"].address]
    assert lazy == b"f" * 5000
    assert hidden is not None
    assert hidden.startswith(b"behind PROT_NONE\0")
    assert nothing == b""
    assert set(data[known["tick"].address]) == {b""}


def test_getdata_is_cut_where_the_programs_memory_ends() -> None:
    program = build_target("calls.c")
    vaddr = functions(program)["length"].address
    request = UTRACE_GETDATA | UTRACE_GETREGS
    pid = utrace_launch([str(program), "1"], [(vaddr, request, None, 65536)])
    record = next(utrace_read(pid))
    assert record.data is not None
    assert record.regs is not None
    assert record.data.startswith(b"twelve chars\0")
    assert len(record.data) < 65536
    assert (record.regs["rdi"] + len(record.data)) % 4096 == 0


@pytest.mark.parametrize("request_bits", range(1, 8))
def test_a_record_has_what_was_asked_for_and_nothing_else(request_bits: int) -> None:
    program = build_target("calls.c")
    length = 4 if request_bits & UTRACE_GETDATA else 0
    arguments = (functions(program)["length"].address, request_bits, None, length)
    pid = utrace_launch([str(program), "1"], [arguments])
    log = list(utrace_read(pid))
    assert len(log) == 2
    for record in log:
        assert (record.data is not None) == bool(request_bits & UTRACE_GETDATA)
        assert (record.regs is not None) == bool(request_bits & UTRACE_GETREGS)
        assert (record.stack is not None) == bool(request_bits & UTRACE_STACKTRACE)


def test_stacktrace_logs_the_user_stack_up_to_the_breakpoint() -> None:
    program = build_target("server.c")
    with start_target(program, "1") as target:
        utrace_addbp(target.pid, "work", UTRACE_STACKTRACE)
        record = next(utrace_read(target.pid, timeout=30))
        utrace_rmbp(target.pid, "work")
        assert target.finish().report == UNHARMED
    assert record.stack is not None
    frames = list(record.stack)
    assert frames[0].address == record.address
    names = [(frame.symbol or "").partition("+")[0] for frame in frames]
    assert names[:2] == ["work", "worker"]  # checksum() is inlined


def test_the_registers_are_logged_before_a_handler_at_the_same_breakpoint_changes_them(
    register: Register,
) -> None:
    def change(hit: pu.Hit) -> None:
        hit.registers.rdi = 4242

    register("change", change)
    program = build_target("calls.c")
    vaddr = functions(program)["skipped"].address
    pid = utrace_launch([str(program), "1"], [(vaddr, UTRACE_GETREGS | UTRACE_HANDLER, "change")])
    (record,) = utrace_read(pid)
    assert record.regs is not None
    assert record.regs["rdi"] == 41


# -- handlers


def test_a_handler_may_sleep_and_only_the_thread_that_hit_waits(register: Register) -> None:
    entered, release = threading.Event(), threading.Event()
    held: list[int] = []

    def sleep(hit: pu.Hit) -> None:
        if not held:
            held.append(hit.tid)
            entered.set()
            assert release.wait(30)

    register("sleep", sleep)
    with start_target(build_target("server.c"), "3") as target:
        utrace_addbp(target.pid, "more_work", UTRACE_GETREGS)
        utrace_addbp(target.pid, "work", UTRACE_HANDLER, "sleep")
        assert entered.wait(30)
        # WHEN one thread is held
        log = utrace_read(target.pid, timeout=30)
        list(utrace_read(target.pid, timeout=0))
        others = {record.tid for record in islice(log, 200)}
        # THEN the others have gone on
        assert others
        assert held[0] not in others
        release.set()
        wait_until("it works again", lambda: next(log).tid == held[0])
        utrace_rmbp(target.pid, "work")
        utrace_rmbp(target.pid, "more_work")
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_only_a_registered_handler_can_be_associated_and_the_process_is_not_touched() -> None:
    with start_target(build_target("sleeper.c")) as target:
        with pytest.raises(OSError, match="no handler 'printk' is registered") as caught:
            utrace_addbp(target.pid, "idle", UTRACE_HANDLER, "printk")
        assert caught.value.errno == errno.EINVAL
        assert_let_go(target)
        with pytest.raises(ProcessLookupError):
            utrace_lsbp(target.pid)
        assert target.finish().status == 5


def test_a_handler_can_be_added_at_run_time_and_goes_only_when_nothing_is_associated(
    register: Register,
) -> None:
    calls = Counter[str]()
    with start_target(build_target("server.c"), "2") as target:
        utrace_addbp(target.pid, "work", UTRACE_GETREGS)
        next(utrace_read(target.pid, timeout=30))
        # GIVEN a handler that is registered while the program runs
        register("late", lambda hit: calls.update(["late"]))
        utrace_addbp(target.pid, "more_work", UTRACE_HANDLER, "late")
        wait_until("it is called", lambda: calls["late"] > 20)
        with pytest.raises(OSError, match="associated") as caught:
            unregister_handler("late")
        assert caught.value.errno == errno.EBUSY
        # WHEN its breakpoint is removed
        utrace_rmbp(target.pid, "more_work")
        # THEN it can go
        unregister_handler("late")
        utrace_rmbp(target.pid, "work")
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_the_end_of_a_program_ends_the_association_too(register: Register) -> None:
    register("ends", lambda hit: None)
    program = build_target("hot_loop.c")
    vaddr = functions(program)["hot"].address
    pid = utrace_launch([str(program), "3"], [(vaddr, UTRACE_HANDLER, "ends")])
    assert list(utrace_read(pid)) == []
    unregister_handler("ends")


def test_a_handler_may_use_the_calls_itself_even_to_remove_the_last_breakpoint(
    register: Register,
) -> None:
    done = threading.Event()
    failures: list[BaseException] = []

    def handler(hit: pu.Hit) -> None:
        if done.is_set():
            return
        try:
            utrace_addbp(hit.pid, "more_work", UTRACE_GETREGS)
            for vaddr in ("more_work", "work"):
                utrace_rmbp(hit.pid, vaddr)
        except BaseException as error:  # noqa: BLE001  # asserted on below
            failures.append(error)
        done.set()

    with start_target(build_target("server.c"), "1") as target:
        register("busy", handler)
        utrace_addbp(target.pid, "work", UTRACE_HANDLER, "busy")
        assert done.wait(30)
        assert failures == []
        unregister_handler("busy")
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_a_handler_that_raises_harms_nothing(
    register: Register, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(hit: pu.Hit) -> None:
        raise ZeroDivisionError("on purpose")

    register("fails", fail)
    program = build_target("hot_loop.c")
    vaddr = functions(program)["hot"].address
    pid = utrace_launch([str(program), "50"], [(vaddr, UTRACE_HANDLER | UTRACE_GETREGS, "fails")])
    records = utrace_read(pid)
    assert len(list(records)) == 50
    assert records.exit_status == 0
    assert capfd.readouterr().err.count("ZeroDivisionError: on purpose") == 1


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_whatever_a_handler_raises_every_breakpoint_goes_on(
    raised: BaseException, register: Register, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(hit: pu.Hit) -> None:
        raise raised

    register("ends", fail)
    program = build_target("hot_loop.c")
    vaddr = functions(program)["hot"].address
    pid = utrace_launch([str(program), "50"], [(vaddr, UTRACE_HANDLER | UTRACE_GETREGS, "ends")])
    records = utrace_read(pid)
    assert len(list(records)) == 50
    assert records.exit_status == 0
    assert capfd.readouterr().err.count(f"\n{type(raised).__name__}") == 1


def test_a_breakpoint_can_be_set_while_a_handler_holds_the_only_thread(register: Register) -> None:
    # GIVEN a program that is nearly always in a handler, or about to be
    register("brief", lambda hit: None)
    with start_target(build_target("hot_loop.c"), str(10**9)) as target:
        target.go()
        for _ in range(10):
            utrace_addbp(target.pid, "hot", UTRACE_HANDLER, "brief")
            # WHEN a place in another library gets one
            utrace_addbp(target.pid, "libc:clock_nanosleep", UTRACE_GETREGS)
            # THEN it is there
            assert utrace_lsbp(target.pid)[1].addresses
            utrace_rmbp(target.pid, "libc:clock_nanosleep")
            utrace_rmbp(target.pid, "hot")
        assert_let_go(target)


# -- breakpoints


def test_breakpoints_are_found_by_pid_and_address_and_have_a_status() -> None:
    program = build_target("server.c")
    with start_target(program, "2") as target:
        # GIVEN one breakpoint by its address, one by its name
        vaddr = address_in(target.pid, program, "work")
        other = address_in(target.pid, program, "more_work")
        utrace_addbp(target.pid, vaddr, UTRACE_GETREGS)
        utrace_addbp(target.pid, "more_work", UTRACE_GETDATA, length=3)
        records = utrace_read(target.pid, timeout=30)
        seen: set[int] = set()
        while seen != {vaddr, other}:
            seen.add(next(records).address)
        first, second = utrace_lsbp(target.pid)
        assert (first.vaddr, first.addresses, first.active) == (vaddr, (vaddr,), True)
        assert (second.vaddr, second.addresses, second.length) == ("more_work", (other,), 3)
        assert first.hits > 0
        assert (first.missed, second.missed) == (0, 0)

        # WHEN one is made inactive
        utrace_setbp(target.pid, vaddr, False)

        # THEN its trap is gone, it is still known, and the other goes on
        assert len(altered_text(target.pid)) == 1
        assert [shown.active for shown in utrace_lsbp(target.pid)] == [False, True]
        list(utrace_read(target.pid, timeout=0))
        assert {record.address for record in islice(records, 20)} == {other}
        with pytest.raises(FileExistsError):
            utrace_addbp(target.pid, vaddr, UTRACE_GETREGS)

        # AND it can be made active again
        utrace_setbp(target.pid, vaddr, True)
        wait_until("it is logged", lambda: next(records).address == vaddr)

        # AND each is removed by its address, however it was named
        utrace_rmbp(target.pid, other)
        utrace_rmbp(target.pid, vaddr)
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_a_second_breakpoint_at_an_address_is_eexist_however_it_is_written() -> None:
    program = build_target("server.c")
    with start_target(program, "1") as target:
        vaddr = address_in(target.pid, program, "work")
        utrace_addbp(target.pid, "work", UTRACE_GETREGS)
        for again in ("work", vaddr, f"{program}:work", f"{vaddr:#x}", "work+0x0"):
            with pytest.raises(FileExistsError) as caught:
                utrace_addbp(target.pid, again, UTRACE_STACKTRACE)
            assert caught.value.errno == errno.EEXIST
            assert isinstance(caught.value, errors.UprobesError)
        assert len(utrace_lsbp(target.pid)) == 1
        utrace_rmbp(target.pid, "work")
        assert_let_go(target)


def test_a_launch_with_two_breakpoints_at_one_address_is_eexist_and_runs_nothing(
    tmp_path: Path,
) -> None:
    program = build_target("hot_loop.c", *FIXED)
    vaddr = functions(program)["hot"].address
    output = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
    saved = os.dup(1)
    os.dup2(output, 1)
    try:
        for again in (vaddr, "hot", f"{vaddr:#x}", "hot+0x0", f"{program}:hot"):
            for order in ([vaddr, again], [again, vaddr]):
                with pytest.raises(FileExistsError) as caught:
                    utrace_launch([str(program), "3"], [(at, UTRACE_GETREGS) for at in order])
                assert caught.value.errno == errno.EEXIST
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(output)
    assert (tmp_path / "output").read_bytes() == b""


def test_what_is_no_address_and_no_timeout_is_einval_and_the_breakpoint_stays() -> None:
    program = build_target("sleeper.c", *FIXED)
    vaddr = functions(program)["idle"].address
    with start_target(program) as target:
        utrace_addbp(target.pid, vaddr, UTRACE_GETREGS)
        bad: list[object] = [float(vaddr), None, [vaddr], {}, b"idle", True, -1, 1 << 64, ""]
        for other in bad:
            for call in (utrace_rmbp, lambda pid, at: utrace_setbp(pid, at, False)):
                with pytest.raises(errors.UsageError) as caught:
                    call(target.pid, other)  # type: ignore[arg-type]
                assert getattr(caught.value, "errno", None) == errno.EINVAL
        actives: list[object] = ["no", None, 2, 1.0, []]
        for active in actives:
            with pytest.raises(errors.UsageError):
                utrace_setbp(target.pid, vaddr, active)  # type: ignore[arg-type]
        timeouts: list[object] = ["1", [], -1, float("nan"), -float("inf"), True]
        for wrong in timeouts:
            with pytest.raises(errors.UsageError):
                utrace_read(target.pid, wrong)  # type: ignore[arg-type]
        (shown,) = utrace_lsbp(target.pid)
        assert (shown.active, shown.addresses) == (True, (vaddr,))

        # AND a timeout beyond all clocks is one that never comes
        for timeout in (float("inf"), 1e300, 2**70, 10**400):
            records: list[object] = []
            reader = threading.Thread(
                target=lambda records=records, timeout=timeout: records.append(
                    list(utrace_read(target.pid, timeout))
                )
            )
            reader.start()
            utrace_rmbp(target.pid, vaddr)
            reader.join(30)
            assert records == [[]]
            utrace_addbp(target.pid, vaddr, UTRACE_GETREGS)
        utrace_rmbp(target.pid, vaddr)
        assert_let_go(target)
        assert target.finish().status == 5


def test_a_breakpoint_that_is_not_there_is_esrch_and_the_others_stay() -> None:
    with start_target(build_target("server.c"), "1") as target:
        utrace_addbp(target.pid, "work", UTRACE_GETREGS)
        calls: list[Callable[[], object]] = [
            lambda: utrace_rmbp(target.pid, 0x401000),
            lambda: utrace_rmbp(target.pid, "more_work"),
            lambda: utrace_setbp(target.pid, 0x10, True),
        ]
        for call in calls:
            with pytest.raises(ProcessLookupError) as caught:
                call()
            assert caught.value.errno == errno.ESRCH
        assert next(utrace_read(target.pid, timeout=30)).vaddr == "work"
        utrace_rmbp(target.pid, "work")
        with pytest.raises(ProcessLookupError):
            utrace_rmbp(target.pid, "work")
        assert_let_go(target)


def test_an_address_that_holds_no_instruction_is_einval_and_the_process_is_let_go() -> None:
    program = build_target("server.c")
    with start_target(program, "1") as target:
        start = address_in(target.pid, program, "work")
        inside = [
            start + at - functions(program)["work"].address + 1
            for at in instruction_addresses(program, functions(program)["work"])
        ]
        stack = next(
            int(line.partition("-")[0], 16)
            for line in Path(f"/proc/{target.pid}/maps").read_text().splitlines()
            if line.endswith("[stack]")
        )
        # Of the last one we take nothing: it is a ret, of one byte.
        assert len(inside) > 1
        bad: list[int | str] = [0, 0x10, stack, (1 << 64) - 1, 1 << 47, inside[0]]
        for vaddr in (*bad, "nosuch", "libc:mallocc"):
            with pytest.raises(ValueError, match=r"cannot probe|no symbol") as caught:
                utrace_addbp(target.pid, vaddr, UTRACE_GETREGS)
            assert isinstance(caught.value, OSError)
            assert isinstance(caught.value, errors.UprobesError)
            assert caught.value.errno == errno.EINVAL
            assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_a_launch_with_a_bad_breakpoint_starts_nothing(tmp_path: Path, register: Register) -> None:
    register("unused", lambda hit: None)
    witness = tmp_path / "witness"
    program = Path("/bin/sh").resolve()
    command = [str(program), "-c", f"echo > {witness}"]
    good = ("libc:malloc", UTRACE_HANDLER, "unused")
    with pytest.raises(ValueError, match="0x10") as caught:
        utrace_launch(command, [good, (0x10, UTRACE_GETREGS)])
    assert caught.value.errno == errno.EINVAL  # type: ignore[attr-defined]

    # AND one that none of its libraries has ends it before it runs
    pid = utrace_launch(command, [good, ("nosuchfunctionanywhere", UTRACE_GETREGS)])
    with pytest.raises(ValueError, match="nosuchfunctionanywhere") as late:
        list(utrace_read(pid))
    assert late.value.errno == errno.EINVAL  # type: ignore[attr-defined]
    assert not witness.exists()
    unregister_handler("unused")


# -- who may


def test_a_process_that_the_caller_may_not_ptrace_is_eperm() -> None:
    if os.geteuid() != 0:
        with pytest.raises(PermissionError) as caught:
            utrace_addbp(1, 0x401000, UTRACE_GETREGS)
        assert caught.value.errno == errno.EPERM
        return
    with start_target(build_target("sleeper.c")) as target:
        # GIVEN another user, in a process of its own
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            try:
                utrace_addbp(target.pid, "idle", UTRACE_GETREGS)
                os.write(writing, b"added")
            except PermissionError as error:
                kind = isinstance(error, errors.UprobesError)
                os.write(writing, f"{kind} {error.errno}".encode())
            except BaseException as error:  # noqa: BLE001  # reported by the assertion below
                os.write(writing, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        answer = os.read(reading, 1000).decode()
        os.close(reading)
        os.waitpid(child, 0)
        assert answer == f"True {errno.EPERM}"
        assert_let_go(target)
        assert target.finish().status == 5


def test_this_very_process_and_one_that_is_traced_already_are_eperm() -> None:
    with pytest.raises(PermissionError) as caught:
        utrace_addbp(os.getpid(), "libc:malloc", UTRACE_GETREGS)
    assert caught.value.errno == errno.EPERM
    with start_target(build_target("sleeper.c")) as target:
        with pu.attach(target.pid):
            with pytest.raises(errors.AlreadyTraced) as traced:
                utrace_addbp(target.pid, "idle", UTRACE_GETREGS)
            assert traced.value.errno == errno.EPERM
        assert target.finish().status == 5


def test_what_nobody_can_probe_is_eperm() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    wait_until("it is a zombie", lambda: process_state(child) == "Z")
    with pytest.raises(PermissionError, match="zombie") as caught:
        utrace_addbp(child, "libc:malloc", UTRACE_GETREGS)
    assert caught.value.errno == errno.EPERM
    assert os.waitpid(child, 0) == (child, 0)


# -- from any thread, while it runs


def test_of_many_threads_that_add_one_breakpoint_one_succeeds_and_so_when_they_remove_it() -> None:
    with start_target(build_target("server.c"), "3") as target:
        for _ in range(5):
            start = threading.Barrier(8)
            outcomes = Counter[str]()

            def contend(
                call: Callable[[], object],
                start: threading.Barrier = start,
                outcomes: Counter[str] = outcomes,
            ) -> None:
                start.wait(30)
                try:
                    call()
                except OSError as error:
                    outcomes[errno.errorcode[error.errno or 0]] += 1
                else:
                    outcomes["done"] += 1

            for call in (
                lambda: utrace_addbp(target.pid, "work", UTRACE_GETREGS),
                lambda: utrace_rmbp(target.pid, "work"),
            ):
                threads = [threading.Thread(target=contend, args=(call,)) for _ in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
            assert outcomes == {"done": 2, "EEXIST": 7, "ESRCH": 7}
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_breakpoints_come_and_go_from_several_threads_while_the_program_runs_hot() -> None:
    program = build_target("server.c")
    with start_target(program, "3") as target:
        failures: list[BaseException] = []
        rounds = 15

        def come_and_go(vaddr: int | str) -> None:
            try:
                for _ in range(rounds):
                    utrace_addbp(target.pid, vaddr, UTRACE_GETREGS)
                    wait_until(
                        "it is hit",
                        lambda: any(
                            shown.vaddr == vaddr and shown.hits > 0
                            for shown in utrace_lsbp(target.pid)
                        ),
                    )
                    utrace_setbp(target.pid, vaddr, False)
                    utrace_setbp(target.pid, vaddr, True)
                    utrace_rmbp(target.pid, vaddr)
            except BaseException as error:  # noqa: BLE001  # asserted on below
                failures.append(error)

        threads = [
            threading.Thread(target=come_and_go, args=(vaddr,))
            for vaddr in ("work", address_in(target.pid, program, "more_work"), "on_tick")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert failures == []
        assert_let_go(target)
        assert target.finish().report == UNHARMED


def test_several_processes_are_probed_at_once_each_with_a_log_of_its_own() -> None:
    program = build_target("server.c")
    with start_target(program, "1") as first, start_target(program, "1") as second:
        for target in (first, second):
            utrace_addbp(target.pid, "work", UTRACE_GETREGS)
        for target in (first, second):
            log = utrace_read(target.pid, timeout=30)
            assert {record.pid for record in islice(log, 50)} == {target.pid}
        utrace_rmbp(first.pid, "work")
        assert_let_go(first)
        list(utrace_read(second.pid, timeout=0))
        assert next(utrace_read(second.pid, timeout=30)).pid == second.pid
        utrace_rmbp(second.pid, "work")
        assert_let_go(second)
        assert first.finish().report == second.finish().report == UNHARMED


def test_a_threads_number_stands_for_its_process() -> None:
    with start_target(build_target("server.c"), "2") as target:
        tid = max(int(name) for name in os.listdir(f"/proc/{target.pid}/task"))
        utrace_addbp(tid, "work", UTRACE_GETREGS)
        assert next(utrace_read(target.pid, timeout=30)).pid == target.pid
        utrace_rmbp(tid, "work")
        assert_let_go(target)


# -- the log, and the program's own life


def test_what_was_logged_can_be_read_after_the_end_once_and_then_the_pid_is_forgotten() -> None:
    program = build_target("hot_loop.c")
    vaddr = functions(program)["hot"].address
    pid = utrace_launch([str(program), "5"], [(vaddr, UTRACE_GETREGS)])
    wait_until("it has ended", lambda: process_state(pid) == "X")
    assert len(list(utrace_read(pid))) == 5
    calls: list[Callable[[int], object]] = [utrace_read, utrace_lsbp]
    for call in calls:
        with pytest.raises(ProcessLookupError) as caught:
            call(pid)
        assert caught.value.errno == errno.ESRCH


def test_the_log_goes_on_when_a_process_is_probed_again() -> None:
    with start_target(build_target("server.c"), "1") as target:
        utrace_addbp(target.pid, "work", UTRACE_GETREGS)
        wait_until("it is hit", lambda: utrace_lsbp(target.pid)[0].hits > 0)
        utrace_rmbp(target.pid, "work")
        utrace_addbp(target.pid, "more_work", UTRACE_GETREGS)
        wait_until("it is hit", lambda: utrace_lsbp(target.pid)[0].hits > 0)
        utrace_rmbp(target.pid, "more_work")
        log = list(utrace_read(target.pid))
        assert list(dict.fromkeys(record.vaddr for record in log)) == ["work", "more_work"]
        assert_let_go(target)


def test_reading_waits_no_longer_than_it_is_told_to() -> None:
    with start_target(build_target("sleeper.c")) as target:
        utrace_addbp(target.pid, "idle", UTRACE_GETREGS)
        assert list(utrace_read(target.pid, timeout=0)) == []
        assert list(utrace_read(target.pid, timeout=0.01)) == []
        utrace_rmbp(target.pid, "idle")
        assert list(utrace_read(target.pid)) == []
        assert target.finish().status == 5


@pytest.mark.parametrize("how", ["exits", "is killed"])
def test_a_reader_ends_when_the_attached_program_does(how: str) -> None:
    with start_target(build_target("server.c"), "2") as target:
        utrace_addbp(target.pid, "work", UTRACE_GETREGS)
        records = utrace_read(target.pid)
        next(records)
        if how == "exits":
            assert target.finish().report == UNHARMED
        else:
            target.signal(signal.SIGKILL)
        for _ in records:
            pass
        assert records.exit_status is None
        with pytest.raises(ProcessLookupError):
            utrace_addbp(target.pid, "work", UTRACE_GETREGS)


def test_the_death_of_a_launched_program_is_told_at_the_end_of_its_log() -> None:
    script = "import os\nwhile True: os.getppid()"
    pid = utrace_launch([sys.executable, "-c", script], [("libc:getppid", UTRACE_GETREGS)])
    records = utrace_read(pid)
    next(records)
    os.kill(pid, signal.SIGKILL)
    for _ in records:
        pass
    assert records.exit_status == 128 + signal.SIGKILL


def test_a_launched_program_that_is_not_probed_any_more_goes_on_and_can_be_probed_again() -> None:
    program = build_target("server.c")
    read, write = os.pipe()
    saved = os.dup(0)
    os.dup2(read, 0)
    try:
        pid = utrace_launch([str(program), "1"], [("work", UTRACE_GETREGS)])
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(read)
    try:
        next(utrace_read(pid, timeout=30))
        utrace_rmbp(pid, "work")
        assert status_fields(pid)["TracerPid"] == "0"
        utrace_addbp(pid, "more_work", UTRACE_GETREGS)
        wait_until(
            "it is logged",
            lambda: next(utrace_read(pid, timeout=30)).vaddr == "more_work",
        )
        utrace_rmbp(pid, "more_work")
    finally:
        os.close(write)
    # AND it leaves no zombie
    wait_until("it is reaped", lambda: process_state(pid) == "X")


def test_a_breakpoint_by_name_is_planted_in_the_program_that_is_execed() -> None:
    program = build_target("hot_loop.c")
    pid = utrace_launch(
        ["/bin/sh", "-c", f"exec {program} 7"], [(f"{program}:hot", UTRACE_GETREGS)]
    )
    records = utrace_read(pid)
    log = list(records)
    assert [record.regs["rsi"] for record in log if record.regs] == list(range(7))
    assert records.exit_status == 0


def test_an_address_of_a_launched_program_is_of_that_file_only() -> None:
    # GIVEN the entry point of a shell, which each program has at another place
    header = Path("/bin/sh").resolve().read_bytes()[:64]
    entry = int.from_bytes(header[24:32], "little")
    program = build_target("hot_loop.c")

    # WHEN the shell becomes another program
    pid = utrace_launch(["/bin/sh", "-c", f"exec {program} 7"], [(entry, UTRACE_GETREGS)])
    records = utrace_read(pid)

    # THEN it was hit in the shell, and nowhere else
    assert len(list(records)) == 1
    assert records.exit_status == 0


def test_tracing_is_per_process_a_child_runs_clean() -> None:
    with start_target(build_target("forks.c"), "tree", "2") as target:
        utrace_addbp(target.pid, "work", UTRACE_GETREGS)
        records = utrace_read(target.pid)
        target.go()
        ended = target.finish()
        assert {record.pid for record in records} <= {target.pid}
    assert ended.status == 11
    assert ended.report["unexpected"] == 0


# -- correlation with the program's and the kernel's output

_STAMPS = """
import os, sys, time
for n in range(5):
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    os.mkdir(f"{sys.argv[1]}/{n}")
    print(before, time.clock_gettime_ns(time.CLOCK_MONOTONIC))
"""


def _in_python(script: Path, folder: Path, output: Path) -> list[str]:
    script.write_text(_STAMPS)
    command = f"exec {sys.executable} {script} {folder} > {output}"
    return ["/bin/sh", "-c", command]


def test_the_times_of_records_are_those_of_the_programs_own_monotonic_clock(
    tmp_path: Path,
) -> None:
    folder, output = tmp_path / "made", tmp_path / "stamps"
    folder.mkdir()
    pid = utrace_launch(
        _in_python(tmp_path / "script", folder, output), [("libc:mkdir", UTRACE_GETREGS)]
    )
    times = [record.time_ns for record in utrace_read(pid)]
    stamps = [tuple(map(int, line.split())) for line in output.read_text().splitlines()]
    assert len(times) == len(stamps) == 5
    assert all(before < at < after for at, (before, after) in zip(times, stamps, strict=True))


def test_records_and_kernel_events_stand_in_one_order(tmp_path: Path) -> None:
    # GIVEN a kernel trace of the mkdir system call, on the monotonic clock
    tracefs = require_tracefs()
    instance = tracefs / "instances" / f"ptu_proposal_{os.getpid()}"
    instance.mkdir()
    try:
        event = instance / "events" / "syscalls" / "sys_enter_mkdir"
        if not event.exists():
            pytest.skip("this kernel has no system call events (CONFIG_FTRACE_SYSCALLS)")
        (instance / "trace_clock").write_text("mono")
        (event / "enable").write_text("1")
        folder, output = tmp_path / "made", tmp_path / "stamps"
        folder.mkdir()
        # WHEN libc's mkdir is probed as well
        pid = utrace_launch(
            _in_python(tmp_path / "script", folder, output), [("libc:mkdir", UTRACE_GETREGS)]
        )
        ours = [record.time_ns / 1000 for record in utrace_read(pid)]
        (event / "enable").write_text("0")
        trace = (instance / "trace").read_text()
    finally:
        instance.rmdir()
    kernels = [
        float(time) * 1e6
        for tid, time in re.findall(r"-(\d+) .*? (\d+\.\d+): sys_mkdir\(", trace)
        if int(tid) == pid
    ]
    # THEN the function's entry and the system call in it alternate, five times
    assert len(kernels) == len(ours) == 5
    # The kernel prints microseconds: cut, so one may be lost.
    merged = [(at, "hit") for at in ours] + [(at + 1, "system call") for at in kernels]
    assert [what for _, what in sorted(merged)] == ["hit", "system call"] * 5


# -- the document


def _tests_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }


def test_every_test_and_file_that_the_document_names_exists() -> None:
    text = (ROOT / "docs" / "proposal.md").read_text()
    references = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(references) > 30
    missing = [f"{file}::{name}" for file, name in references if name not in _tests_of(ROOT / file)]
    assert missing == []
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", text)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
