"""Namespaces, limits and users: it works there, or one line says what stands in the way."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes import errors
from tests.support.build import BuildFailed, build_target
from tests.support.command import COMMAND, Run, records, run
from tests.support.let_go import assert_let_go
from tests.support.procfs import altered_text, descendants, status_fields, wait_until
from tests.support.target import start_target

_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
_OUTPUT = "hot 50\ntraps 0\nothers 0\n"
_STATUS = 6

WRAPPERS = {
    "pid-namespace": ("unshare", "--pid", "--fork", "--mount-proc"),
    "user-namespace": ("unshare", "--user", "--map-root-user"),
    "all-namespaces": ("unshare", "-m", "-u", "-i", "-n", "-p", "-f", "--mount-proc"),
    "no-new-privileges": ("setpriv", "--no-new-privs"),
    "unprivileged": _NOBODY,
    "unprivileged-in-hidepid": (
        *("unshare", "-m", "sh", "-c", 'mount -t proc -o hidepid=2 none /proc && exec "$@"', "sh"),
        *_NOBODY,
    ),
    "address-space": ("prlimit", "--as=600000000"),
    "files": ("prlimit", "--nofile=24"),
    "no-core-no-memlock": ("prlimit", "--core=0", "--memlock=0"),
    "small-stack": ("prlimit", "--stack=262144"),
    "unlimited-stack": ("prlimit", "--stack=unlimited"),
    "low-priority": ("nice", "-n", "19"),
}


def _or_skip(wrapper: Sequence[str], *words: str) -> None:
    """Skip where this machine cannot make such surroundings."""
    if wrapper and shutil.which(wrapper[0]) is None:
        pytest.skip(f"no {wrapper[0]}(1)")
    tried = subprocess.run([*wrapper, *(words or ("true",))], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"{' '.join(wrapper)}: {tried.stderr.strip()}")


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A directory that every user may use."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    tmp_path.chmod(0o777)
    return tmp_path


def _program(folder: Path, *flags: str) -> Path:
    """A copy that is nobody else's."""
    try:
        built = build_target("hostile.c", *flags)
    except BuildFailed as failure:
        pytest.skip(f"cannot be built here: {failure}")
    return Path(shutil.copy(built, folder / "hostile"))


def _count(folder: Path, wrapper: Sequence[str], *command: str | Path) -> tuple[Run, int]:
    """The command under a probe of hot(), and how often that was hit."""
    file = folder / "hits"
    options = ("--count", "--format", "jsonl", "-o", file, "-e", "hot")
    result = run(*options, "--", *command, wrapper=wrapper)
    if not file.exists():
        return result, -1
    summary = records(file.read_text(), "summary")
    return result, summary[0]["probes"]["hot"]["hits"] if summary else -1


def _python_or_skip(wrapper: Sequence[str]) -> None:
    if "hidepid" in " ".join(wrapper) and _kernel() < (5, 8):
        pytest.skip("before Linux 5.8 all mounts of proc have the same options")
    _or_skip(wrapper, sys.executable, "-c", "import ptrace_uprobes")


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_command_and_its_program_inside(kind: str, open_folder: Path) -> None:
    wrapper = WRAPPERS[kind]
    _python_or_skip(wrapper)
    result, hits = _count(open_folder, wrapper, _program(open_folder), "plain", "50")
    # Where no descriptor is left to give away, that is said.
    said = [line for line in result.stderr.splitlines() if "no guardian: " not in line]
    assert (result.status, result.stdout, said) == (_STATUS, _OUTPUT, [])
    assert hits == 50


@pytest.mark.parametrize("kind", ["pid-namespace", "user-namespace", "all-namespaces"])
def test_a_program_inside_is_attached_to_from_outside(kind: str, tmp_path: Path) -> None:
    wrapper = WRAPPERS[kind]
    _or_skip(wrapper)
    with start_target(_program(tmp_path), "plain", "50", wrapper=_paths(wrapper)) as target:
        pid = next((p for p in descendants(target.pid)), target.pid)
        engine = pu.attach(pid)
        probe = engine.probe("hot")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()
    assert (ended.status, ended.stdout) == (_STATUS, _OUTPUT)
    assert probe.hits == 50


def _paths(wrapper: Sequence[str]) -> list[str]:
    return [shutil.which(wrapper[0]) or wrapper[0], *wrapper[1:]]


def test_a_static_program_in_a_chroot_without_proc(tmp_path: Path) -> None:
    _or_skip(("chroot", "/"))
    _program(tmp_path, "-static")
    wrapper = _paths(("chroot", str(tmp_path)))
    with start_target("/hostile", "plain", "50", wrapper=wrapper) as target:
        engine = pu.attach(target.pid)
        probe = engine.probe("hot")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()
    assert (ended.status, ended.stdout) == (_STATUS, _OUTPUT)
    assert probe.hits == 50


@pytest.mark.parametrize("what", ["deleted", "replaced", "truncated-copy-in-its-place"])
def test_a_program_whose_file_is_not_what_it_was(what: str, tmp_path: Path) -> None:
    program = _program(tmp_path)
    with start_target(program, "plain", "50") as target:
        # GIVEN a running program whose name leads elsewhere now
        program.unlink()
        if what == "replaced":
            shutil.copy("/bin/true", program)
        elif what != "deleted":
            program.write_bytes(build_target("hostile.c").read_bytes()[:5000])

        # WHEN it is probed
        engine = pu.attach(target.pid)
        probe = engine.probe("hot")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN it is the running one's functions that are meant
    assert (ended.status, ended.stdout) == (_STATUS, _OUTPUT)
    assert probe.hits == 50


@pytest.mark.parametrize(
    "mount",
    [
        'mount -t tmpfs none "$0"/up',
        (
            'mkdir "$0"/l "$0"/u "$0"/w && mount -t overlay '
            '-o volatile,lowerdir="$0"/l,upperdir="$0"/u,workdir="$0"/w none "$0"/up'
        ),
    ],
    ids=["tmpfs", "overlayfs"],
)
def test_a_program_on_another_file_system(mount: str, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    script = f'{mount} && cp "$0"/hostile "$0"/up/ && exec "$@"'
    wrapper = ("unshare", "-m", "sh", "-c", script, str(tmp_path))
    program = _program(tmp_path)
    _or_skip(wrapper)
    for left in ("l", "u", "w"):
        shutil.rmtree(tmp_path / left, ignore_errors=True)
    assert program.exists()
    result, hits = _count(tmp_path, wrapper, tmp_path / "up" / "hostile", "plain", "50")
    assert (result.status, result.stdout, result.stderr) == (_STATUS, _OUTPUT, "")
    assert hits == 50


def test_a_process_that_may_map_no_more_memory(tmp_path: Path) -> None:
    with start_target(_program(tmp_path), "plain", "50") as target:
        # GIVEN a process at the limit of its address space
        resource.prlimit(target.pid, resource.RLIMIT_AS, (4096, 4096))

        # WHEN it is probed
        engine = pu.attach(target.pid)
        probe = engine.probe("hot")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()

    # THEN slots were found where no mapping is needed
    assert (ended.status, ended.stdout) == (_STATUS, _OUTPUT)
    assert probe.hits == 50


def test_a_process_in_a_small_memory_cgroup(tmp_path: Path) -> None:
    group = Path(f"/sys/fs/cgroup/memory/ptrace-uprobes-{os.getpid()}")
    if not os.access(group.parent / "tasks", os.W_OK):
        pytest.skip("no memory cgroup (version 1) that may be written to")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("4M")
        script = f'echo $$ > {group}/tasks && exec "$0" "$@"'
        with start_target(
            _program(tmp_path), "plain", "50", wrapper=("/bin/sh", "-c", script)
        ) as target:
            engine = pu.attach(target.pid)
            probe = engine.probe("hot")
            engine.start()
            target.go()
            ended = target.finish()
            engine.stop()
    finally:
        wait_until("the group is empty", lambda: not (group / "tasks").read_text())
        group.rmdir()
    assert (ended.status, ended.stdout) == (_STATUS, _OUTPUT)
    assert probe.hits == 50


def test_a_full_disk_is_told_of_and_the_program_has_run(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=4k none "$0" && exec "$@"'
    wrapper = ("unshare", "-m", "sh", "-c", script, str(tmp_path / "small"))
    (tmp_path / "small").mkdir()
    _or_skip(wrapper)
    program = _program(tmp_path)
    result = run(
        *("-o", tmp_path / "small" / "hits", "-e", "hot", "--", program, "plain", "5000"),
        wrapper=wrapper,
    )
    assert result.status == 1
    assert result.error.startswith("cannot write")
    assert "No space left on device" in result.error
    assert result.stdout == "hot 5000\ntraps 0\nothers 0\n"


def _as_nobody_or_skip() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    _python_or_skip(_NOBODY)


def test_an_undumpable_process_of_ones_own_is_refused_with_the_reason(open_folder: Path) -> None:
    _as_nobody_or_skip()
    program = _program(open_folder)
    with start_target(program, "undumpable", "50", wrapper=_paths(_NOBODY)) as target:
        refused = run("--pid", str(target.pid), "-e", "hot", wrapper=_NOBODY)
        assert refused.status == 1
        assert "not dumpable" in refused.error
        # AND root may
        with pu.attach(target.pid) as engine:
            engine.probe("hot")
            engine.run(timeout=0.01)
        assert_let_go(target)
        target.go()
        ended = target.finish()
    assert (ended.status, ended.stdout) == (_STATUS, _OUTPUT)


def test_a_process_that_hidepid_hides_does_not_exist_for_us(open_folder: Path) -> None:
    _as_nobody_or_skip()
    wrapper = WRAPPERS["unprivileged-in-hidepid"]
    _python_or_skip(wrapper)
    with start_target(_program(open_folder), "plain", "50") as target:
        refused = run("--pid", str(target.pid), "-e", "hot", wrapper=wrapper)
        assert refused.status == 1
        assert "no process has the pid" in refused.error
        assert "hidepid" in refused.error
        assert_let_go(target)
        target.go()
        assert target.finish().status == _STATUS


@pytest.mark.parametrize("how", ["launched", "exec'ed"])
def test_a_set_user_id_program_runs_without_its_privileges(how: str, open_folder: Path) -> None:
    # GIVEN a set-user-ID program of root's, and a user who is not root
    _as_nobody_or_skip()
    program = _program(open_folder)
    program.chmod(0o4755)
    command: tuple[str | Path, ...] = (program, "plain", "50")
    if how != "launched":
        command = ("/bin/sh", "-c", f"exec {program} plain 50")

    # WHEN that user runs it under a probe
    options = ("-e", "hostile:hot") if how != "launched" else ("-e", "hot")
    result = run("--count", *options, "--", *command, wrapper=_NOBODY)

    # THEN it runs, as that user (execve(2)), and is counted
    assert (result.status, result.stdout) == (_STATUS, _OUTPUT)
    assert "50" in result.stderr
    assert "error" not in result.stderr


@pytest.mark.parametrize(
    ("mode", "options"),
    [(0o4755, ()), (0o4755, ("-f",)), (0o4711, ("-f",))],
    ids=["itself", "followed", "unreadable"],
)
def test_a_process_that_execs_a_set_user_id_program_while_it_is_probed(
    options: tuple[str, ...], mode: int, open_folder: Path
) -> None:
    # GIVEN a shell of a user's that is attached to
    _as_nobody_or_skip()
    program = _program(open_folder)
    program.chmod(mode)
    run_it = "exec " if not options else ""
    script = f'echo ready >&"$READY_FD"; read line; {run_it}{program} plain 50; exit $?'
    shell = shutil.which("bash")  # others know descriptors of one digit
    if shell is None:
        pytest.skip("no bash(1)")
    with start_target(shell, "-c", script, wrapper=_paths(_NOBODY)) as target:
        file = open_folder / "hits"
        command = [*_NOBODY, *COMMAND, *options, "--count", "--format", "jsonl", "-o", str(file)]
        tracer = subprocess.Popen(
            [*command, "-e", "hostile:hot", "--pid", str(target.pid)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        while "no guardian: " in line:  # its interpreter may be out of that user's reach
            line = tracer.stderr.readline()
        assert "waits for it" in line

        # WHEN it, or its child, execs a set-user-ID program of root's
        target.go()
        target.wait_ready()
        pid = next(iter(descendants(target.pid)), target.pid)
        if mode == 0o4755:
            wait_until("its trap is there", lambda: altered_text(pid) != [], 60)
        target.go()
        ended = target.finish()
        said = tracer.communicate(timeout=60)[1]

    # THEN that runs without its privileges (execve(2)): counted, or left alone with the reason
    assert (ended.status, ended.stdout) == (_STATUS, _OUTPUT)
    assert "Traceback" not in said
    hits = records(file.read_text(), "summary")[0]["probes"]["hostile:hot"]["hits"]
    if mode == 0o4755:
        assert hits == 50
    else:
        assert hits == 0
        assert "may be executed but not read" in said


def test_a_program_that_makes_itself_undumpable_stays_probed(open_folder: Path) -> None:
    """Its mappings cannot be read from then on: before, that was a traceback."""
    _as_nobody_or_skip()
    plugin = Path(shutil.copy(_plugin(), open_folder))
    program = Path(shutil.copy(build_target("loads_undumpable.c", "-ldl"), open_folder))
    file = open_folder / "hits"
    result = run(
        *("--count", "--format", "jsonl", "-o", file, "-e", "hot", "-e", "libplugin:plugin_work"),
        *("--", program, plugin),
        wrapper=_NOBODY,
    )
    assert (result.status, result.stdout) == (6, "")
    assert "Traceback" not in result.stderr
    assert "its mappings may not be read" in result.stderr
    assert records(file.read_text(), "summary")[0]["probes"]["hot"]["hits"] == 30


def _plugin() -> Path:
    return build_target("plugin.c", "-shared", "-fPIC", name="libplugin.so")


def test_a_process_that_proc_shows_only_the_name_of_is_refused_with_the_reason(
    open_folder: Path,
) -> None:
    _as_nobody_or_skip()
    script = 'mount -t proc -o hidepid=1 none /proc && exec "$@"'
    wrapper = ("unshare", "-m", "sh", "-c", script, "sh", *_NOBODY)
    if _kernel() < (5, 8):
        pytest.skip("before Linux 5.8 all mounts of proc have the same options")
    _or_skip(wrapper, sys.executable, "-c", "import ptrace_uprobes")
    with start_target(_program(open_folder), "plain", "50") as target:
        refused = run("--pid", str(target.pid), "-e", "hot", wrapper=wrapper)
        assert refused.status == 1
        assert "hidepid" in refused.error
        target.go()
        assert target.finish().status == _STATUS


def test_a_set_user_id_process_that_runs_already_is_refused_with_the_reason(
    open_folder: Path,
) -> None:
    _as_nobody_or_skip()
    program = _program(open_folder)
    program.chmod(0o4755)
    with start_target(program, "plain", "50", wrapper=_paths(_NOBODY)) as target:
        if status_fields(target.pid)["Uid"].split()[1] != "0":
            pytest.skip("set-user-ID programs have no effect on this file system")
        refused = run("--pid", str(target.pid), "-e", "hot", wrapper=_NOBODY)
        assert refused.status == 1
        assert refused.error.startswith(f"may not trace process {target.pid}: ")
        assert_let_go(target)
        target.go()
        assert target.finish().status == _STATUS


def test_generated_code_is_refused_with_the_reason(tmp_path: Path) -> None:
    with start_target(_program(tmp_path), "jit", "50") as target:
        place = next(
            line.split("-")[0]
            for line in Path(f"/proc/{target.pid}/maps").read_text().splitlines()
            if "x" in line.split()[1] and line.split()[4] == "0" and len(line.split()) < 6
        )
        with pu.attach(target.pid) as engine, pytest.raises(errors.UprobesError) as caught:
            engine.probe(f"0x{place}")
        assert "belongs to no file" in str(caught.value)
        assert_let_go(target)
        target.go()
        assert target.finish().status == _STATUS


@pytest.mark.parametrize("most", range(1, 8))
def test_where_too_many_processes_run_one_line_says_so(most: int, open_folder: Path) -> None:
    # GIVEN a user who may have few processes and threads, all of them together
    user = ("setpriv", "--reuid=64321", "--regid=64321", "--clear-groups")
    readable = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    _python_or_skip((*user, *readable))
    wrapper = (*user, *readable, "prlimit", f"--nproc={most}")

    # WHEN a command is probed
    result, hits = _count(open_folder, wrapper, _program(open_folder), "plain", "50")

    # THEN that is refused in a line, or works with what is left said
    if result.status == _STATUS:
        assert (result.stdout, hits) == (_OUTPUT, 50)
    else:
        assert result.status == 1
    assert most > 2 or result.status == 1
    told = [line for line in result.stderr.splitlines() if "ulimit -u" in line]
    assert told == result.stderr.splitlines()
    assert len(told) == (result.status == 1) or "no guardian" in told[0]


@pytest.mark.parametrize("most", [6, 8, 12, 24])
def test_where_too_few_files_may_be_open_one_line_says_so(most: int, open_folder: Path) -> None:
    wrapper = ("prlimit", f"--nofile={most}:")
    result, hits = _count(open_folder, wrapper, _program(open_folder), "plain", "50")
    if result.status == _STATUS:
        assert (result.stdout, hits) == (_OUTPUT, 50)
    else:
        assert result.status == 1
        assert "error: " in result.stderr.splitlines()[-1]
    assert all("ulimit -n" in line for line in result.stderr.splitlines())
