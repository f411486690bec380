"""Real programs as workloads: found, fed, timed from outside, and ended whatever happens."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contestants.contestant import BOUND_SECONDS, NotMeasured

__all__ = [
    "PAGE",
    "Run",
    "Waiting",
    "build_environment",
    "dynamic_symbol",
    "elf_program",
    "killed_late",
    "library_of",
    "memory_of",
    "on_cpu",
    "pinned",
    "text",
    "waiting",
]

PAGE = os.sysconf("SC_PAGE_SIZE")


def elf_program(name: str) -> Path | None:
    """The ELF file behind a command, not a wrapper script such as pyenv's."""
    places = [Path(folder) / name for folder in ("/usr/bin", "/bin", "/usr/local/bin")]
    if found := shutil.which(name):
        places.append(Path(found))
    for place in places:
        if place.exists() and place.resolve().read_bytes()[:4] == b"\x7fELF":
            return place.resolve()
    return None


def library_of(program: Path, stem: str) -> Path | None:
    """The file that the dynamic linker takes for `stem` ("libc.so")."""
    listing = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    for line in listing.stdout.splitlines():
        soname, arrow, rest = line.strip().partition(" => ")
        if arrow and soname.startswith(stem) and rest.startswith("/"):
            return Path(rest.split(" (")[0]).resolve()
    return None


def dynamic_symbol(library: Path, name: str) -> int:
    """The address of a name that a library exports; raises `NotMeasured` if it does not."""
    command = ["nm", "-D", "--defined-only", str(library)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        row = line.split()
        if row[-1].split("@")[0] == name and len(row) == 3:
            return int(row[0], 16)
    raise NotMeasured(f"{library} does not export {name}")


def text(size: int, seed: int = 1) -> bytes:
    """`size` bytes of lines of made-up words, some of them frequent, the same at every call."""
    generator = random.Random(seed)
    words = [
        "".join(generator.choices("etaoinshrdlucmfw", k=generator.randint(2, 9)))
        for _ in range(3000)
    ]
    frequency = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(words))))
    lines: list[str] = []
    length = 0
    while length < size:
        line = " ".join(generator.choices(words, cum_weights=frequency, k=9))
        lines.append(f"{generator.getrandbits(16):05} {line}\n")
        length += len(lines[-1])
    return "".join(lines).encode()[:size]


def build_environment(**settings: str) -> dict[str, str]:
    """Ours without what makes runs differ."""
    return {**os.environ, "LC_ALL": "C", "PYTHONHASHSEED": "0", **settings}


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a process: `resident`, `private_dirty`, and what of that is of mapped files."""
    status = Path(f"/proc/{pid}/status").read_text()
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    of_files = 0
    is_file = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            # A mapping's first line: range, permissions, offset, device, inode, path.
            is_file = len(words) > 5 and words[5].startswith("/")
        elif is_file and words[0] == "Private_Dirty:":
            of_files += int(words[1])
    return {
        "resident": _kilobytes(status, "VmRSS:") * 1024,
        "private_dirty": _kilobytes(rollup, "Private_Dirty:") * 1024,
        "private_dirty_of_files": of_files * 1024,
    }


def _kilobytes(listing: str, field: str) -> int:
    return next(int(line.split()[1]) for line in listing.splitlines() if line.startswith(field))


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """This thread, and what it starts meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pinned(argv: Sequence[str], cpu: int) -> list[str]:
    """The command that runs `argv` there, from its first instruction on."""
    return ["taskset", "-c", str(cpu), *argv]


@contextmanager
def killed_late(kill: Callable[[], None]) -> Iterator[None]:
    """A bound for a wait: `kill` when it has passed, which raises `NotMeasured`.

    subprocess's own timeouts look for the end every 50 ms, which durations would show.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):
            kill()

    timer = threading.Timer(BOUND_SECONDS, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    if late.is_set():
        raise NotMeasured(f"hung after {BOUND_SECONDS:.0f} s")


@dataclass(frozen=True, slots=True)
class Run:
    """From the moment a program is given its input until it has ended."""

    wall: float
    cpu: float
    """Seconds of user and system time of the program, all its threads."""
    output: bytes


class Waiting:
    """A program that has started up and waits for its input."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output
        self.pid = process.pid

    def feed(self, data: bytes) -> Run:
        """Give it all of its input and wait for its end; raises `NotMeasured`."""
        before = _cpu_clock(self.pid)
        others = _cpu_of_children()
        start = time.perf_counter()
        with killed_late(self._process.kill):
            self._process.communicate(data)
            wall = time.perf_counter() - start
        # No other child is waited for in between: the growth is this one's whole life.
        cpu = _cpu_of_children() - others - before
        if self._process.returncode != 0:
            raise NotMeasured(f"the program ended with status {self._process.returncode}")
        return Run(wall, cpu, self._output.read_bytes())


@contextmanager
def waiting(argv: Sequence[str], environment: Mapping[str, str]) -> Iterator[Waiting]:
    """`argv`, which reads all its input from its standard input, before its first read."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        output = Path(folder) / "output"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(environment),
            )
        try:
            _wait_for_first_read(process)
            yield Waiting(process, output)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()


def _wait_for_first_read(process: subprocess.Popen[bytes]) -> None:
    # The kernel reports it nowhere else: read is call 0, its first argument the descriptor.
    deadline = time.monotonic() + BOUND_SECONDS
    while not Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 0x0 "):
        if process.poll() is not None:
            raise NotMeasured(f"the program ended at once with status {process.returncode}")
        if time.monotonic() > deadline:
            raise NotMeasured("the program never reads its input")
        time.sleep(0.001)


def _cpu_clock(pid: int) -> float:
    """CPU time of a process until now: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime(~pid << 3 | 2)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
