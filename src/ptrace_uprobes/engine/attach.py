"""Taking hold of processes: running ones, and ones that we start."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from ptrace_uprobes.engine.loop import Tracer
from ptrace_uprobes.engine.state import WAIT_FLAGS, is_exec_stop, record_of
from ptrace_uprobes.errors import (
    CommandEnded,
    CommandNotExecutable,
    CommandNotFound,
    NoSuchProcess,
    NotPermitted,
    UnsupportedTracee,
    UprobesError,
    UsageError,
)
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.child import PausedChild, kill_quietly, spawn_paused
from ptrace_uprobes.linux.permission import (
    architecture_of,
    check_can_be_probed,
    explain_refusal,
)
from ptrace_uprobes.linux.process_info import read_status, thread_ids
from ptrace_uprobes.linux.ptrace_calls import SeizeOptions, TraceeGone
from ptrace_uprobes.linux.seizing import Seizing
from ptrace_uprobes.tracee import AddressSpace, Process, RunState, Thread

__all__ = ["attach", "launch"]

_SIGKILL: Final = 9
_EXEC_LIMIT: Final = 10.0
_LOOKS: Final = 30
_MOMENT: Final = 0.001
_DEFAULT_PATH: Final = "/bin:/usr/bin"


def attach(tracer: Tracer, pid: int) -> Process:
    """Seize every thread of the process that `pid` is of; none is stopped by it."""
    state = tracer.state
    if pid <= 0:
        raise NoSuchProcess(pid, "; a pid is a positive number")
    status = check_can_be_probed(pid)
    pid = status.tgid
    if pid in state.processes:
        return state.processes[pid]
    with Seizing() as seizing:
        process = _seize_all(tracer, pid, seizing)
    try:
        tracer.planter.look_again(process.space)
    except TraceeGone:
        pass  # its end is reported like any other
    record_of(process.space).relocated = True
    return process


def _seize_all(tracer: Tracer, pid: int, seizing: Seizing) -> Process:
    state = tracer.state
    process = None
    seized_first = 0
    patience = _LOOKS
    deadline = time.monotonic() + _EXEC_LIMIT
    try:
        while True:
            fresh = [tid for tid in thread_ids(pid) if tid not in state.threads]
            seized = 0
            for tid in fresh:
                try:
                    if not _seize(pid, tid, patience, seizing):
                        continue
                except InterruptedError:
                    # A sister execs, which waits for those that are ours to be gone.
                    if time.monotonic() > deadline:
                        raise NotPermitted(
                            pid, "a thread of it is in an exec that does not end; try again"
                        ) from None
                    tracer.serve_pending()
                    process = state.processes.get(pid)
                    seized = 1
                    break
                seized += 1
                seized_first = seized_first or tid
                if process is None:
                    # Of the thread: a leader that has exited shows no program.
                    architecture = architecture_of(tid)
                    process = state.new_process(pid, AddressSpace(tid, architecture))
                state.new_thread(tid, process)
            if not seized and (not fresh or patience <= 0):
                break
            patience -= 1
    except BaseException:
        if process is None and seized_first:
            _release(seized_first)
        if process is not None:
            tracer.freeze()
            for thread in list(process.threads.values()):
                thread.detach(thread.resume_signal)
                state.forget_thread(thread)
            tracer.thaw()
        raise
    if process is None:
        raise NoSuchProcess(pid, "; it ended just now")
    return process


def _release(tid: int) -> None:
    """Undo a seize of a thread that is in no table yet."""
    try:
        ptrace_calls.call(ptrace_calls.INTERRUPT, tid)
        os.waitpid(tid, WAIT_FLAGS)
        ptrace_calls.call(ptrace_calls.DETACH, tid)
    except (TraceeGone, ChildProcessError):
        pass


def _seize(pid: int, tid: int, patience: int, seizing: Seizing) -> bool:
    """False if the thread ended meanwhile, or is ours already through its parent's clone."""
    try:
        seizing.seize(tid)
    except TraceeGone:
        return False
    except InterruptedError:
        raise
    except OSError as error:
        try:
            status = read_status(tid)
        except NoSuchProcess:
            return False
        if status.tracer == os.getpid() or _tracer_is_ours(status.tracer):
            return False
        if status.state in "ZX" or patience > 0:
            # A thread on its way out is refused as well, and one in the middle of an exec;
            # another look at the list decides.
            time.sleep(_MOMENT)
            return False
        raise explain_refusal(pid, error) from error
    return True


def _tracer_is_ours(tracer: int) -> bool:
    """TracerPid names the tracing thread's process."""
    return tracer in (os.getpid(), *thread_ids(os.getpid()))


def launch(
    tracer: Tracer,
    argv: Sequence[str],
    environment: Mapping[str, str] | None,
    directory: str | None,
) -> Process:
    """Start a program and hold it before its first instruction."""
    state = tracer.state
    if not argv or not argv[0]:
        raise CommandNotFound("(empty)")
    _check_words([*argv, *chain.from_iterable((environment or {}).items()), directory or ""])
    paths = _candidates(argv[0], os.environ if environment is None else environment)
    child = spawn_paused(paths, argv, environment, directory)
    try:
        ptrace_calls.call(ptrace_calls.SEIZE, child.pid, 0, SeizeOptions.ALL)
        # What it is before its exec: the same as we are.
        space = AddressSpace(child.pid, architecture_of(os.getpid()))
    except OSError as error:
        reason = _why_not_seized(child.pid, argv[0], error)
        child.abandon()
        kill_quietly(child.pid, _SIGKILL)
        _wait_for_end(child.pid)
        raise reason from error
    process = state.new_process(child.pid, space, launched=True)
    thread = state.new_thread(child.pid, process)
    state.launched = child.pid
    state.frozen = True
    try:
        _run_to_first_instruction(tracer, child, thread, argv[0], directory)
    except NoSuchProcess as error:
        # What it was killed by before us is how it ended.
        raise _killed(argv[0], _end(tracer, thread)) from error
    except BaseException:
        _end(tracer, thread)
        raise
    return process


def _why_not_seized(pid: int, command: str, error: OSError) -> UprobesError:
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is not None:
        return CommandEnded(command, ended.si_status)
    return explain_refusal(pid, error)


def _wait_for_end(pid: int) -> int:
    """The raw status of our child's end."""
    while True:
        _, status = os.waitpid(pid, WAIT_FLAGS)
        if not os.WIFSTOPPED(status):
            return status


def _killed(command: str, status: int) -> UprobesError:
    return CommandEnded(command, os.WTERMSIG(status) or _SIGKILL)


def _run_to_first_instruction(
    tracer: Tracer, child: PausedChild, thread: Thread, command: str, directory: str | None
) -> None:
    state, process = tracer.state, thread.process
    child.release()
    while thread.state is not RunState.STOPPED or not process.exec_count or thread.after_exec:
        # The stop after exec's own is the one before the program's first instruction.
        status = state.wait_for(child.pid)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            state.forget_thread(thread)
            if os.WIFSIGNALED(status):
                raise _killed(command, status)
            raise _why_not_started(command, child.failure(), directory)
        if is_exec_stop(status):
            architecture_of(child.pid)  # while it can still be kept from running
        tracer.dispatch(child.pid, status)
        if child.pid not in state.threads:
            break
        if thread.state is RunState.STOPPED and not process.exec_count:
            # A signal on the way to exec, for instance from the terminal.
            number, thread.resume_signal = thread.resume_signal, 0
            thread.resume(number)
    child.failure()
    if child.pid not in state.threads:
        refusal = tracer.births.refusal
        if refusal is not None:
            raise refusal
        raise UnsupportedTracee(child.pid, f"{command} ended before it began")


def _end(tracer: Tracer, thread: Thread) -> int:
    """Kill what cannot be probed, before it has run anything, and take its end; gives its raw
    status."""
    if thread.tid not in tracer.state.threads:
        return _SIGKILL  # it has ended
    kill_quietly(thread.tid, _SIGKILL)
    while os.WIFSTOPPED(status := tracer.state.wait_for(thread.tid)):
        thread.resume()
    tracer.state.forget_thread(thread)
    return status


def _check_words(words: Iterable[str]) -> None:
    """execve(2) takes strings that end at their first NUL."""
    for word in words:
        try:
            if b"\0" not in os.fsencode(word):
                continue
        except (TypeError, UnicodeEncodeError):
            pass
        raise UsageError(f"{word!r} cannot be an argument or in an environment")


def _candidates(command: str, env: Mapping[str, str]) -> list[str]:
    """The files that execvp(3) would try."""
    if "/" in command:
        return [command]
    folders = env.get("PATH", _DEFAULT_PATH).split(":")
    return [os.path.join(folder or ".", command) for folder in folders]


def _why_not_started(command: str, code: int, directory: str | None) -> UprobesError:
    error = _refusal_of_exec(command, code, directory)
    error.errno = code or None
    return error


def _refusal_of_exec(
    command: str, code: int, directory: str | None
) -> CommandNotFound | CommandNotExecutable:
    if directory is not None and not os.path.isdir(directory):
        return CommandNotExecutable(command, f"there is no directory {directory}")
    if code == errno.ENOENT and shutil.which(command) is None and not os.path.exists(command):
        return CommandNotFound(command)
    if code == errno.ENOENT:
        return CommandNotExecutable(command, "its interpreter does not exist")
    if code == errno.ENOTDIR:
        return CommandNotFound(command)
    if code == errno.EACCES and os.path.isdir(command):
        return CommandNotExecutable(command, "it is a directory")
    return CommandNotExecutable(command, os.strerror(code) if code else "it was killed")
