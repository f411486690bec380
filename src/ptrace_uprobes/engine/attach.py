"""Taking hold of processes: running ones, and ones that we start."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from ptrace_uprobes.engine.loop import Tracer
from ptrace_uprobes.engine.state import WAIT_FLAGS, is_exec_stop, record_of
from ptrace_uprobes.errors import (
    CommandNotExecutable,
    CommandNotFound,
    NoSuchProcess,
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
from ptrace_uprobes.tracee import AddressSpace, Process, RunState, Thread

__all__ = ["attach", "launch"]

_SIGKILL: Final = 9
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
    process = None
    seized_first = 0
    patience = 3
    try:
        while True:
            fresh = [tid for tid in thread_ids(pid) if tid not in state.threads]
            seized = 0
            for tid in fresh:
                if not _seize(pid, tid, patience):
                    continue
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
    tracer.planter.look_again(process.space)
    record_of(process.space).relocated = True
    return process


def _release(tid: int) -> None:
    """Undo a seize of a thread that is in no table yet."""
    try:
        ptrace_calls.call(ptrace_calls.INTERRUPT, tid)
        os.waitpid(tid, WAIT_FLAGS)
        ptrace_calls.call(ptrace_calls.DETACH, tid)
    except (TraceeGone, ChildProcessError):
        pass


def _seize(pid: int, tid: int, patience: int) -> bool:
    """False if the thread ended meanwhile, or is ours already through its parent's clone."""
    try:
        ptrace_calls.call(ptrace_calls.SEIZE, tid, 0, SeizeOptions.ALL)
    except TraceeGone:
        return False
    except OSError as error:
        try:
            status = read_status(tid)
        except NoSuchProcess:
            return False
        if status.tracer == os.getpid() or _tracer_is_ours(status.tracer):
            return False
        if status.state in "ZX" or patience > 0:
            # A thread on its way out is refused as well; another look at the list decides.
            os.sched_yield()
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
    except OSError as error:
        reason = explain_refusal(child.pid, error)
        child.abandon()
        kill_quietly(child.pid, _SIGKILL)
        os.waitpid(child.pid, 0)
        raise reason from error
    process = state.new_process(
        child.pid, AddressSpace(child.pid, architecture_of(child.pid)), launched=True
    )
    thread = state.new_thread(child.pid, process)
    state.launched = child.pid
    state.frozen = True
    try:
        _run_to_first_instruction(tracer, child, thread, argv[0], directory)
    except BaseException:
        _end(tracer, thread)
        raise
    return process


def _run_to_first_instruction(
    tracer: Tracer, child: PausedChild, thread: Thread, command: str, directory: str | None
) -> None:
    state, process = tracer.state, thread.process
    child.release()
    while thread.state is not RunState.STOPPED or not process.exec_count or thread.after_exec:
        # The stop after exec's own is the one before the program's first instruction.
        status = state.wait_for(child.pid)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            failure = child.failure() if os.WIFEXITED(status) else 0
            state.forget_thread(thread)
            raise _why_not_started(command, failure, directory)
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


def _end(tracer: Tracer, thread: Thread) -> None:
    """Kill what cannot be probed, before it has run anything, and take its end."""
    if thread.tid not in tracer.state.threads:
        return  # it has ended
    kill_quietly(thread.tid, _SIGKILL)
    while os.WIFSTOPPED(tracer.state.wait_for(thread.tid)):
        thread.resume()
    tracer.state.forget_thread(thread)


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
