"""The command keeps the promises of its help: options, output, exit statuses."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.build import build_target
from tests.support.command import COMMAND, records, run, running
from tests.support.procfs import altered_text, process_state, status_fields, wait_until
from tests.support.target import start_target

HIT_LINE = re.compile(r" *(\S+)-(\d+) +\[\d{3}\] \d+\.\d{6}: (\S+): \((0x[0-9a-f]+)\)")


@pytest.fixture(scope="module")
def hot_loop() -> str:
    return str(build_target("hot_loop.c"))


def test_each_hit_is_a_line_on_standard_error_and_the_programs_output_is_its_own(
    hot_loop: str,
) -> None:
    # GIVEN a program that calls hot() seven times
    plain = subprocess.run([hot_loop, "7"], capture_output=True, text=True, check=True)

    # WHEN it is probed there
    probed = run("-e", "hot", "--", hot_loop, "7")

    # THEN there are seven lines and a summary, and nothing else has changed
    lines = probed.stderr.splitlines()
    hits = [match for match in map(HIT_LINE.fullmatch, lines) if match]
    assert len(hits) == 7
    assert {(hit[1], hit[3]) for hit in hits} == {("hot_loop", "hot")}
    assert len({hit[4] for hit in hits}) == 1
    assert lines[7:9] == ["7 hits, 0 missed; exit status 0", "  hot  7 hits"]
    assert probed.stdout == plain.stdout
    assert probed.status == 0


def test_with_an_output_file_standard_error_is_the_programs_own(
    hot_loop: str, tmp_path: Path
) -> None:
    path = tmp_path / "hits"
    probed = run("-e", "hot", "-o", path, "--", hot_loop, "7")
    assert probed.stderr == ""
    assert len(path.read_text().splitlines()) >= 9
    assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0


def test_count_prints_the_summary_only(hot_loop: str) -> None:
    probed = run("-e", "hot", "--count", "--", hot_loop, "1000")
    assert probed.stderr.splitlines()[0] == "1000 hits, 0 missed; exit status 0"
    assert not any(map(HIT_LINE.fullmatch, probed.stderr.splitlines()))


def test_json_lines_are_the_records_of_the_design(hot_loop: str, tmp_path: Path) -> None:
    path = tmp_path / "hits"
    probed = run("-e", "hot", "--format", "jsonl", "-o", path, "--", hot_loop, "5")
    assert probed.status == 0
    text = path.read_text()
    hits = records(text, "hit")
    assert len(hits) == 5
    assert set(hits[0]) == {"type", "time_ns", "pid", "tid", "comm", "probe", "address"}
    assert hits[0]["comm"] == "hot_loop"
    assert hits[0]["probe"] == "hot"
    times = [hit["time_ns"] for hit in hits]
    assert times == sorted(times)
    (summary,) = records(text, "summary")
    assert summary["probes"] == {"hot": {"hits": 5, "missed": 0}}
    assert summary["exit_status"] == 0
    assert sum(summary["mechanisms"].values()) == 1
    assert text.splitlines()[-1].startswith('{"type":"summary"')


def test_a_glob_has_its_total_and_its_places(hot_loop: str) -> None:
    probed = run("-e", "h?t", "--format", "jsonl", "--count", "--", hot_loop, "5")
    (summary,) = records(probed.stderr, "summary")
    assert summary["probes"]["h?t"] == {
        "hits": 5,
        "missed": 0,
        "sites": {"hot": {"hits": 5, "missed": 0}},
    }


@pytest.mark.parametrize("status", [0, 1, 2, 77, 126, 127, 255])
def test_the_exit_status_is_the_commands_own(status: int) -> None:
    assert run("-e", "libc:exit", "--count", "--", "sh", "-c", f"exit {status}").status == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP])
def test_a_commands_death_by_a_signal_is_128_plus_its_number(number: int) -> None:
    probed = run("-e", "libc:exit", "--count", "--", "sh", "-c", f"kill -{int(number)} $$")
    assert probed.status == 128 + number
    assert f"exit status {128 + number}" in probed.stderr


def test_a_command_that_does_not_exist_is_127() -> None:
    failed = run("-e", "f", "--", "no-such-command-anywhere")
    assert failed.status == 127
    assert failed.error == "command not found: no-such-command-anywhere"


@pytest.mark.parametrize("make", ["not executable", "a directory", "no program"])
def test_a_command_that_cannot_be_executed_is_126(tmp_path: Path, make: str) -> None:
    path = tmp_path / "command"
    if make == "a directory":
        path.mkdir()
    else:
        path.write_bytes(b"\x7fELF and no more\n")
        path.chmod(0o755 if make == "no program" else 0o644)
    failed = run("-e", "f", "--", path)
    assert failed.status == 126
    assert failed.error.startswith(f"cannot execute {path}: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to probe"),
        (("-p", "1"), "no probe"),
        (("-p", "1", "-e", "f", "--", "true"), "not both"),
        (("-p", "x", "-e", "f"), "'x'"),
        (("-e", "f", "--mechanism", "magic", "--", "true"), "'magic'"),
        (("-e", "f", "--frobnicate", "--", "true"), "--frobnicate"),
        (("-e", "", "--", "true"), "bad probe"),
        (("-e", "libc:malloc%returns", "--", "true"), "bad probe"),
        (("-e", "kprobe:vfs_read", "--", "true"), "only uprobe:, uretprobe: and usdt:"),
        (("-e", "uprobe:malloc", "--", "true"), "a module is missing"),
        (("-e", "libc:malloc", "--filter", "size >", "--", "true"), "bad filter"),
        (("-e", "libc:malloc", "--filter", "size > 3", "--", "true"), "'size'"),
        (("-e", "@/no/such/file", "--", "true"), "/no/such/file"),
    ],
)
def test_wrong_usage_is_2_and_one_line(arguments: tuple[str, ...], words: str) -> None:
    failed = run(*arguments)
    assert failed.status == 2
    assert words in failed.error


def test_a_failure_of_ours_is_1_and_the_command_has_not_begun(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for arguments in (
        ("-e", "libc:mallocc"),
        ("-e", "libc:malloc", "-o", str(tmp_path / "missing" / "file")),
        ("-e", "libc:malloc", "--handler", "/nonexistent.py:f"),
    ):
        failed = run(*arguments, "--", "touch", witness)
        assert failed.status == 1, failed
        assert failed.error
        assert not witness.exists(), arguments


def test_an_unknown_name_says_which_close_names_exist() -> None:
    failed = run("-e", "libc:mallocc", "--", "true")
    assert "mallocc" in failed.error
    assert "malloc" in failed.error.replace("mallocc", "")


def test_an_output_file_that_cannot_be_written_is_named(hot_loop: str, tmp_path: Path) -> None:
    failed = run("-e", "hot", "-o", tmp_path, "--", hot_loop, "1")
    assert failed.status == 1
    assert failed.error == f"cannot write {tmp_path}: Is a directory"


@pytest.mark.parametrize("more", [(), ("--count",)])
def test_a_full_disk_is_1_and_the_program_goes_on_to_its_end(
    hot_loop: str, more: tuple[str, ...]
) -> None:
    failed = run("-e", "hot", "-o", "/dev/full", *more, "--", hot_loop, "2000")
    assert failed.status == 1
    assert failed.error == "cannot write to /dev/full: No space left on device"
    assert "hot 2000\n" in failed.stdout


def test_a_closed_standard_error_is_1_and_the_program_goes_on_to_its_end(hot_loop: str) -> None:
    # GIVEN a pipe for standard error that nobody reads
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.Popen(
        [*COMMAND, "-e", "hot", "--", hot_loop, "2000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=write_end,
        text=True,
    )
    os.close(write_end)
    # WHEN hits are printed to it
    stdout, _ = process.communicate(timeout=60)
    # THEN nothing dies of SIGPIPE
    assert process.returncode == 1
    assert "hot 2000\n" in stdout


def test_without_standard_descriptors_nothing_is_written_to_a_wrong_file(hot_loop: str) -> None:
    finished = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *COMMAND, "-e", "hot", "--", hot_loop, "3"],
        capture_output=True,
        check=False,
    )
    assert finished.stdout.startswith(b"hot 3\n")
    assert finished.returncode == 0


@pytest.mark.parametrize("what", [("--emit", "kernel"), ("--explain",)])
def test_a_closed_standard_output_is_an_error_of_what_goes_there(what: tuple[str, ...]) -> None:
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *what, "-e", "libc:malloc", "true"]
    finished = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
    assert finished.returncode == 1
    error = "ptrace-uprobes: error: cannot write to standard output: it is closed\n"
    assert finished.stderr == error


def test_bytes_that_are_no_text_are_escaped_in_errors() -> None:
    failed = run("-e", os.fsdecode(b"libc:m\xff  %foo"), "--", "true")
    assert failed.status == 2
    assert failed.error.startswith("bad probe 'libc:m\\xff  %foo' at character 14: ")


def test_the_command_has_the_signal_dispositions_and_mask_of_an_unprobed_run() -> None:
    show = ("grep", "-E", "^Sig(Ign|Blk|Cgt)|^ShdPnd", "/proc/self/status")
    plain = subprocess.run(show, capture_output=True, text=True, check=True)
    probed = run("-e", "libc:exit", "-o", os.devnull, "--", *show).stdout
    # But for the handler of last resort (docs/tracer_death.md).
    caught = re.search(r"^SigCgt:\t(\w+)$", probed, re.MULTILINE)
    assert caught is not None
    mask = int(caught[1], 16)
    assert mask & 1 << signal.SIGTRAP - 1
    without = f"{mask & ~(1 << signal.SIGTRAP - 1):016x}"
    assert probed.replace(caught[1], without) == plain.stdout


def test_the_command_has_no_descriptor_that_an_unprobed_run_has_not() -> None:
    show = ("ls", "/proc/self/fd")
    plain = subprocess.run(
        show, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    assert run("-e", "libc:exit", "-o", os.devnull, "--", *show).stdout == plain.stdout


def test_max_hits_detaches_and_the_command_runs_to_its_end(hot_loop: str) -> None:
    probed = run("-e", "hot", "--count", "--max-hits", "10", "--", hot_loop, "5000")
    assert probed.stderr.startswith("10 hits, 0 missed; enough hits, detached\n")
    assert "hot 5000\n" in probed.stdout
    assert probed.status == 0


def test_after_detaching_the_exit_status_is_still_the_commands_own() -> None:
    probed = run(
        "-e", "libc:exit", "--duration", "0.01", "--count", "--", "sh", "-c", "read x; exit 9"
    )
    assert probed.status == 9


def test_a_duration_ends_the_tracing_of_a_running_process() -> None:
    with start_target(build_target("server.c"), "2") as server:
        probed = run("-p", str(server.pid), "-e", "work", "--count", "--duration", "0.2")
        assert probed.status == 0
        assert "the duration is over, detached" in probed.stderr
        assert altered_text(server.pid) == []
        ended = server.finish()
    assert ended.status == 0
    assert ended.report["wrong"] == 0


def test_explain_prints_the_plan_and_the_program_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    explained = run("--explain", "-e", "libc:malloc", "--", "touch", witness)
    assert explained.status == 0
    assert not witness.exists()
    assert explained.stderr == ""
    (line,) = explained.stdout.splitlines()
    assert re.match(
        r"libc:malloc: 0x[0-9a-f]+ \S*libc\S*:malloc: ([0-9a-f]{2} ?)+: .+: boost", line
    )


def test_explain_in_json_has_the_plan_records_of_the_design() -> None:
    explained = run("--explain", "--format", "jsonl", "-e", "libc:mallo?", "--", "true")
    plans = records(explained.stdout, "plan")
    assert plans
    for plan in plans:
        assert set(plan) == {
            *("type", "probe", "address", "bytes", "instruction", "mechanism", "reason")
        }
        assert plan["probe"] == "libc:mallo?"
        assert bytes.fromhex(plan["bytes"])


def test_explain_leaves_a_running_process_as_it_was() -> None:
    with start_target(build_target("server.c"), "2") as server:
        explained = run("--explain", "-p", str(server.pid), "-e", "work")
        assert explained.status == 0
        assert "work" in explained.stdout
        assert altered_text(server.pid) == []
        assert status_fields(server.pid)["TracerPid"] == "0"
        assert server.finish().report["wrong"] == 0


def test_a_mechanism_that_a_site_cannot_have_is_said(hot_loop: str) -> None:
    probed = run("-e", "libc:*", "--mechanism", "step", "--count", "--", hot_loop, "1")
    assert probed.status == 0
    assert re.search(r"^  \d+ sites? could not have step and got boost$", probed.stderr, re.M)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_detaches_cleanly_prints_the_summary_and_the_target_lives_on(
    number: int,
) -> None:
    with start_target(build_target("server.c"), "3") as server:
        # GIVEN a process whose hits are being printed
        with running("-p", str(server.pid), "-e", "work") as tracer:
            assert tracer.stderr is not None
            assert HIT_LINE.fullmatch(tracer.stderr.readline().rstrip("\n"))

            # WHEN the user has seen enough
            tracer.send_signal(number)
            _, rest = tracer.communicate(timeout=60)

        # THEN we end well, and nothing of us is left
        assert tracer.returncode == 0
        assert "; interrupted, detached\n" in rest
        assert altered_text(server.pid) == []
        assert status_fields(server.pid)["TracerPid"] == "0"
        assert process_state(server.pid) in "RS"
        ended = server.finish()
    assert ended.status == 0
    assert ended.report["wrong"] == 0
    assert ended.report["strange_rips"] == 0


def test_who_insists_gets_the_same_end_and_the_whole_summary(tmp_path: Path) -> None:
    path = tmp_path / "hits"
    with start_target(build_target("server.c"), "3") as server:
        # GIVEN a process that is probed
        with running("-p", str(server.pid), "-e", "work", "-o", path) as tracer:
            wait_until("a hit", lambda: path.exists() and path.stat().st_size > 0)

            # WHEN the user presses Ctrl-C again and again, until we are gone
            while tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
            _, said = tracer.communicate(timeout=60)

        # THEN that is as if it had been once
        assert (tracer.returncode, said) == (0, "")
        summary = path.read_text().splitlines()[-3:]
        assert summary[0].endswith("; interrupted, detached")
        assert summary[2].startswith("  sites by mechanism: ")
        assert altered_text(server.pid) == []
        ended = server.finish()
    assert ended.status == 0


def test_a_signal_while_a_launched_command_runs_leaves_it_running(hot_loop: str) -> None:
    # GIVEN a command that is launched and has hits
    script = "while :; do printf 'x\\n'; done"
    with running("-e", "libc:write", "--count", "--", "sh", "-c", script) as tracer:
        assert tracer.stdout is not None
        assert tracer.stderr is not None
        assert tracer.stdout.readline() == "x\n"

        # WHEN the tracer, and not the command, is told to end
        tracer.terminate()
        summary = tracer.stderr.readline()

        # THEN it says so by its exit status, and the command goes on writing
        assert summary.endswith("; interrupted, detached\n")
        assert tracer.wait(60) == 128 + signal.SIGTERM
        for _ in range(100_000):
            assert tracer.stdout.readline() == "x\n"


HANDLER = """
seen = 0

def count(hit):
    global seen
    seen += 1
    if seen <= 3:
        print("argument", hit.argument(1), flush=True)

def fail(hit):
    raise ValueError("on purpose")
"""


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    path = tmp_path / "handlers.py"
    path.write_text(HANDLER)
    return path


def test_a_handler_from_a_file_is_called_at_each_hit(hot_loop: str, handlers: Path) -> None:
    probed = run("-e", "hot", "--handler", f"{handlers}:count", "--count", "--", hot_loop, "9")
    assert probed.stdout.splitlines()[:3] == ["argument 0", "argument 1", "argument 2"]
    assert probed.stderr.startswith("9 hits, 0 missed")


def test_a_handler_that_raises_is_reported_once_and_harms_nothing(
    hot_loop: str, handlers: Path
) -> None:
    probed = run("-e", "hot", "--handler", f"{handlers}:fail", "--count", "--", hot_loop, "9")
    assert probed.status == 0
    assert "hot 9\n" in probed.stdout
    assert probed.stderr.count("ValueError: on purpose") == 1
    assert "handler raised 9 times" in probed.stderr


@pytest.mark.parametrize(
    ("text", "function", "words"),
    [
        ("def f(hit):\n  retrun 1\n", "f", "line 2: SyntaxError"),
        ("import no_such_module\n", "f", "line 1: ModuleNotFoundError"),
        ("def f(hit): pass\n", "g", "has no function 'g'"),
    ],
)
def test_a_handler_file_that_is_no_good_is_one_line(
    tmp_path: Path, text: str, function: str, words: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    failed = run("-e", "libc:malloc", "--handler", f"{path}:{function}", "--", "true")
    assert failed.status == 1
    assert words in failed.error


def test_a_pid_that_does_not_exist_is_named() -> None:
    pid = int(Path("/proc/sys/kernel/pid_max").read_text())
    failed = run("-p", str(pid), "-e", "f")
    assert failed.status == 1
    assert failed.error == f"no process has the pid {pid}"


def test_a_zombie_is_refused() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    failed = run("-p", str(pid), "-e", "f")
    os.waitpid(pid, 0)
    assert failed.status == 1
    assert str(pid) in failed.error
    assert "zombie" in failed.error


def test_a_kernel_thread_is_refused() -> None:
    def is_kernel_thread(pid: int) -> bool:
        try:
            fields = status_fields(pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return "VmSize" not in fields and fields["State"][0] in "SI"

    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    found = next(filter(is_kernel_thread, pids), None)
    if found is None:
        pytest.skip("no kernel thread is visible here (a container)")
    failed = run("-p", str(found), "-e", "f")
    assert failed.status == 1
    assert "kernel thread" in failed.error


def test_a_process_that_is_traced_already_says_by_whom() -> None:
    with start_target(build_target("server.c"), "1") as server:
        with running("-p", str(server.pid), "-e", "work") as tracer:
            assert tracer.stderr is not None
            tracer.stderr.readline()
            failed = run("-p", str(server.pid), "-e", "work", "--count")
            assert failed.status == 1
            assert "already traced by" in failed.error
            assert str(tracer.pid) in failed.error
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=60)
        assert server.finish().report["wrong"] == 0


def test_a_process_of_another_user_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    # GIVEN a process of nobody's, and a root without the capability to trace it
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv (util-linux) is not installed")
    nobody = (setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups")
    powerless = (setpriv, "--bounding-set", "-all", "--inh-caps", "-all")
    with start_target("/bin/sleep", "1000", wrapper=nobody, wait=False) as target:
        wait_until(
            "it is another user's", lambda: status_fields(target.pid)["Uid"].split()[0] == "65534"
        )
        # WHEN it is to be probed
        failed = run("-p", str(target.pid), "-e", "f", wrapper=powerless)
        # THEN one line says that it may not be
        assert failed.status == 1
        assert f"may not trace process {target.pid}: " in failed.error
        assert process_state(target.pid) == "S"


def test_an_error_in_a_second_probe_leaves_a_running_process_as_it_was() -> None:
    with start_target(build_target("server.c"), "2") as server:
        failed = run("-p", str(server.pid), "-e", "work", "-e", "no_such_function")
        assert failed.status == 1
        assert "no_such_function" in failed.error
        assert altered_text(server.pid) == []
        assert server.finish().report["wrong"] == 0


def test_several_processes_are_probed_at_once() -> None:
    program = build_target("server.c")
    with start_target(program, "1") as first, start_target(program, "2") as second:
        probed = run(
            *("-p", str(first.pid), "-p", str(second.pid), "-e", "work", "--max-hits", "2000"),
            *("--format", "jsonl"),
        )
        assert probed.status == 0
        assert {hit["pid"] for hit in records(probed.stderr, "hit")} == {first.pid, second.pid}
        for server in (first, second):
            assert altered_text(server.pid) == []
            assert server.finish().report["wrong"] == 0


@pytest.mark.parametrize(
    "entry", ["-mptrace_uprobes", "-cfrom ptrace_uprobes.__main__ import main; main()"]
)
def test_ctrl_c_while_the_command_starts_ends_it_without_a_traceback(entry: str) -> None:
    # GIVEN the command, which is still importing itself
    words = [sys.executable, "-X", "importtime", entry, "-e", "libc:malloc", "--", "sleep", "60"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as starting:
        assert starting.stderr is not None
        for line in starting.stderr:
            if line.endswith(" ptrace_uprobes.errors\n"):
                break
        # WHEN the user presses Ctrl-C
        starting.send_signal(signal.SIGINT)
        rest = starting.stderr.read()
    # THEN it ends as any program does
    assert starting.returncode == -signal.SIGINT
    assert "Traceback" not in rest
