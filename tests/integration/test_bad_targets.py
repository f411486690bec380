"""What cannot be probed is refused in one line that says why, and is alive and clean afterwards."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes import errors
from tests.support.build import build_target
from tests.support.elf_tools import functions, instruction_addresses
from tests.support.procfs import (
    altered_text,
    descendants,
    process_state,
    status_fields,
    wait_until,
)
from tests.support.target import Target, start_target

_PR_SET_DUMPABLE = 4  # prctl(2): setresuid(2) has cleared it


def _one_line(error: BaseException) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    return text


def _alive_and_clean(target: Target) -> None:
    assert altered_text(target.pid) == []
    assert status_fields(target.pid)["TracerPid"] == "0"
    assert target.finish().status == 5


def _unused_pid() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_a_pid_that_no_process_has() -> None:
    with pytest.raises(errors.NoSuchProcess) as caught:
        pu.attach(_unused_pid())
    assert isinstance(caught.value, ProcessLookupError)
    _one_line(caught.value)


@pytest.mark.parametrize("pid", [0, -1, -5, 2**40])
def test_a_pid_that_no_process_can_have(pid: int) -> None:
    with pytest.raises(errors.UprobesError) as caught:
        pu.attach(pid)
    _one_line(caught.value)


def test_a_zombie() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    wait_until("it is a zombie", lambda: process_state(child) == "Z")
    with pytest.raises(errors.UnsupportedTracee, match="zombie") as caught:
        pu.attach(child)
    _one_line(caught.value)
    assert os.waitpid(child, 0) == (child, 0)


def test_a_kernel_thread() -> None:
    if not Path("/proc/2/comm").exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("no kernel threads are visible in this pid namespace")
    with pytest.raises(errors.UprobesError, match=r"kernel thread|may not trace") as caught:
        pu.attach(2)
    _one_line(caught.value)


def test_ourselves() -> None:
    with pytest.raises(errors.UprobesError) as caught:
        pu.attach(os.getpid())
    _one_line(caught.value)


def test_the_id_of_a_thread_stands_for_its_whole_process() -> None:
    # GIVEN the tid of a worker thread
    with start_target(build_target("server.c"), "2") as target:
        tid = max(int(name) for name in os.listdir(f"/proc/{target.pid}/task"))

        # WHEN it is given as a pid
        threads: set[int] = set()
        with pu.attach(tid) as engine:
            engine.probe("work", lambda hit: threads.add(hit.tid))
            engine.start()
            # THEN the process's other threads are probed too
            wait_until("both workers hit", lambda: len(threads) == 2)
        assert altered_text(target.pid) == []
        assert target.finish().report["wrong"] == 0


@pytest.mark.parametrize("tracer", ["strace", "gdb"])
def test_a_process_that_another_tracer_holds_is_refused_with_the_tracers_name(tracer: str) -> None:
    command = shutil.which(tracer)
    if command is None:
        pytest.skip(f"{tracer} is not installed")
    with start_target(build_target("sleeper.c")) as target:
        # GIVEN a process in the hands of another tracer
        arguments = {
            "strace": ["-p", str(target.pid), "-o", "/dev/null"],
            "gdb": ["--batch-silent", "-nx", "-p", str(target.pid), "-ex", "shell cat"],
        }[tracer]
        other = subprocess.Popen(
            [command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until("it is traced", lambda: status_fields(target.pid)["TracerPid"] != "0")

        # WHEN we are asked to attach
        with pytest.raises(errors.AlreadyTraced) as caught:
            pu.attach(target.pid)

        # THEN the tracer is named
        assert tracer in _one_line(caught.value)
        assert caught.value.tracer == other.pid
        assert other.stdin is not None
        other.stdin.close()
        other.send_signal(signal.SIGTERM)
        other.wait()
        wait_until("it is free", lambda: status_fields(target.pid)["TracerPid"] == "0")
        assert target.finish().status == 5


def test_a_process_that_we_trace_already_is_refused() -> None:
    with start_target(build_target("sleeper.c")) as target:
        with pu.attach(target.pid):
            with pytest.raises(errors.AlreadyTraced) as caught:
                pu.attach(target.pid)
            _one_line(caught.value)
        _alive_and_clean(target)


def test_a_process_of_another_user() -> None:
    if os.geteuid() != 0:
        with pytest.raises(errors.NotPermitted):
            pu.attach(1)
        return
    with start_target(build_target("sleeper.c")) as target:
        # GIVEN an unprivileged user
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # a process of its own, so that this one stays root
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            # WHEN that user attaches to a process of root
            try:
                pu.attach(target.pid)
                os.write(writing, b"attached")
            except errors.NotPermitted as error:
                os.write(writing, f"{isinstance(error, PermissionError)} {error}".encode())
            except BaseException as error:  # noqa: BLE001  # reported by the assertion below
                os.write(writing, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        answer = os.read(reading, 1000).decode()
        os.close(reading)
        os.waitpid(child, 0)

        # THEN the kernel's refusal is ours
        assert answer.startswith("True may not trace"), answer
        _alive_and_clean(target)


def _midway(program: Path) -> int:
    """An address inside an instruction of hot(), as the file states it."""
    addresses = instruction_addresses(program, functions(program)["hot"])
    return next(start + 1 for start, end in pairwise(addresses) if end - start > 1)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("idel", errors.SymbolNotFound, "idle"),
        ("nosuchfunctionanywhere", errors.SymbolNotFound, "nosuchfunctionanywhere"),
        ("libc:mallocc", errors.SymbolNotFound, "malloc"),
        ("0x10", errors.BadAddress, "0x10"),
        ("0x7fffffffffff", errors.BadAddress, ""),
        ("", errors.BadSpec, ""),
        ("idle+", errors.BadSpec, ""),
        ("idle+4%return", errors.BadSpec, "first instruction"),
        ("idle %di:string", errors.BadSpec, "string"),
    ],
)
def test_a_place_that_is_none_is_refused_and_the_process_lives(
    spec: str, error: type[errors.UprobesError], words: str
) -> None:
    with start_target(build_target("sleeper.c")) as target:
        with pu.attach(target.pid) as engine, pytest.raises(error) as caught:
            engine.probe(spec)
        assert words in _one_line(caught.value)
        _alive_and_clean(target)


def test_an_address_inside_an_instruction_is_refused() -> None:
    program = build_target("hot_loop.c")
    with pu.launch([str(program), "5"]) as engine:
        with pytest.raises(errors.BadAddress) as caught:
            engine.probe(f"{program}:{_midway(program):#x}")
        _one_line(caught.value)
        assert engine.run(timeout=30).exit_status == 0


def test_the_address_of_data_is_refused() -> None:
    listing = subprocess.run(
        ["nm", str(build_target("hot_loop.c"))], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"^([0-9a-f]+) b calls$", listing, re.MULTILINE)
    assert match
    program = build_target("hot_loop.c")
    with pu.launch([str(program), "5"]) as engine:
        with pytest.raises(errors.UprobesError) as caught:
            engine.probe(f"{program}:0x{match[1]}")
        _one_line(caught.value)
        assert engine.run(timeout=30).exit_status == 0


def _not_executable(folder: Path) -> Path:
    path = folder / "plain-file"
    path.write_text("no program\n")
    path.chmod(0o644)
    return path


def _no_format(folder: Path) -> Path:
    path = folder / "garbage"
    path.write_bytes(b"\x7fELF" + bytes(60))
    path.chmod(0o755)
    return path


def _bad_interpreter(folder: Path) -> Path:
    path = folder / "script"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("make", "error", "status"),
    [
        (lambda folder: folder / "missing", errors.CommandNotFound, 127),
        (lambda folder: Path("no-such-command-in-path"), errors.CommandNotFound, 127),
        (_not_executable, errors.CommandNotExecutable, 126),
        (_no_format, errors.CommandNotExecutable, 126),
        (lambda folder: folder, errors.CommandNotExecutable, 126),
        (_bad_interpreter, errors.UprobesError, None),
    ],
    ids=["missing", "not-in-path", "not-executable", "no-format", "folder", "bad-interpreter"],
)
def test_a_command_that_cannot_be_started(
    make: Callable[[Path], Path],
    error: type[errors.UprobesError],
    status: int | None,
    tmp_path: Path,
) -> None:
    with pytest.raises(error) as caught:
        pu.launch([str(make(tmp_path))])
    _one_line(caught.value)
    if status is not None:
        assert caught.value.exit_status == status
    assert caught.value.exit_status in {126, 127}


def test_a_program_that_may_be_executed_but_not_read_is_refused_and_has_not_run(
    tmp_path: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file that the user may execute and not read")
    # GIVEN such a file, and a user who is not its owner
    program = tmp_path / "xonly"
    shutil.copy("/usr/bin/touch", program)
    program.chmod(0o711)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    witness = tmp_path / "witness"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        subprocess.run([program, tmp_path / "runs"], check=True)
        # WHEN that user launches it
        try:
            pu.launch([str(program), str(witness)])
        except errors.NotPermitted as error:
            os.write(writing, str(error).encode())
        except BaseException as error:  # noqa: BLE001  # reported by the assertion below
            os.write(writing, repr(error).encode())
        finally:
            wait_until("nothing of it is left", lambda: not descendants(os.getpid()))
            os._exit(0)
    os.close(writing)
    answer = os.read(reading, 1000).decode()
    os.close(reading)

    # THEN it is refused for that reason, and never ran
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "may be executed but not read" in answer
    assert (tmp_path / "runs").exists()
    assert not witness.exists()


@pytest.mark.parametrize("words", [["echo", "a\0b"], ["ec\0ho"], ["echo", "\ud800"]], ids=ascii)
def test_a_word_that_no_program_can_be_given(words: list[str]) -> None:
    with pytest.raises(errors.UsageError):
        pu.launch(words)
    with pytest.raises(errors.UsageError):
        pu.launch(["true"], env={"A": words[-1]})
    with pytest.raises(errors.UsageError):
        pu.launch(["true"], cwd=words[-1])


def test_a_script_with_an_interpreter_can_be_launched(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 9\n")
    script.chmod(0o755)
    with pu.launch([str(script)]) as engine:
        engine.probe("libc:getenv")
        assert engine.run(timeout=30).exit_status == 9
