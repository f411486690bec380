"""What planting costs: per site as their number grows, and `libc:*` beside bpftrace.

bpftrace attaches the kernel's uprobes. Both commands are timed from their start until main()
of the program that they launch is reached, with every probe in place.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.build import build_target, cache_dir
from tests.support.target import start_target

import ptrace_uprobes as pu

__all__ = ["main", "many_functions"]

_HERE = Path(__file__).resolve().parent
_SIZES = (1_000, 3_000, 10_000)
_REPEATS = 3
_EVENTS = Path("/sys/kernel/tracing/uprobe_events")
_BPFTRACE_LIMIT = float(os.environ.get("BENCH_BPFTRACE_SECONDS", "200"))
# `*` comes last: where the kernel refuses one function, bpftrace gives up on all of them.
_WILDCARDS = ("str*", "_IO*", "s*", "*")


@functools.cache
def many_functions(count: int) -> Path:
    """A program with `count` functions called f00000, f00001 and so on; it waits on its input."""
    source = cache_dir() / f"functions-{count}.c"
    lines = ['#include "' + str(_HERE.parent / "tests" / "targets" / "target.h") + '"']
    lines.extend(
        f"NOINLINE long f{number:05}(long a) {{ return a * {number} + 1; }}"
        for number in range(count)
    )
    lines.append("int main(void) { say_ready(); wait_go(); return 5; }")
    text = "\n".join(lines) + "\n"
    if not source.exists() or source.read_text() != text:
        source.write_text(text)
    return build_target(source, "-O0")


def _plant(count: int) -> tuple[float, float]:
    """Seconds to plant `count` sites in a running process, and to take them out again."""
    with start_target(many_functions(count)) as target:
        engine = pu.attach(target.pid)
        start = time.perf_counter()
        probe = engine.probe("f[0-9]*")
        engine.start()  # writes the traps
        planted = time.perf_counter()
        engine.stop()
        end = time.perf_counter()
        if len(probe.sites) != count:
            raise RuntimeError(f"{len(probe.sites)} sites planted of {count}")
        target.finish()
    return planted - start, end - planted


def _by_number() -> None:
    print(f"{'sites':>7} {'planting':>10} {'per site':>10} {'detaching':>10}")
    for count in _SIZES:
        runs = [_plant(count) for _ in range(_REPEATS)]
        planting = statistics.median(run[0] for run in runs)
        removal = statistics.median(run[1] for run in runs)
        print(
            f"{count:7,} {planting * 1e3:7.1f} ms {planting / count * 1e6:7.1f} µs"
            f" {removal * 1e3:7.1f} ms"
        )


def _until_main(command: list[str], environment: dict[str, str], limit: float) -> float | str:
    """Seconds from a command's start until the stamp that its program prints; or what failed."""
    start = time.monotonic_ns()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=_HERE.parent,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return f"not done after {limit:.0f} s"
        output.seek(0)
        text = output.read()
    if match := re.search(r"^nanoseconds (\d+)", text, re.MULTILINE):
        return (int(match[1]) - start) / 1e9
    elapsed = (time.monotonic_ns() - start) / 1e9
    said = [line for line in text.splitlines() if "rror" in line]
    return f"gave up after {elapsed:.1f} s: {said[-1].strip() if said else 'no message'}"


def _libc() -> str:
    listing = subprocess.run(
        ["ldd", str(build_target(_HERE / "targets" / "stamp.c"))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    match = re.search(r"libc\.so\S* => (\S+)", listing)
    return str(Path(match[1]).resolve()) if match else "libc.so.6"


def _kernel_events() -> set[str]:
    try:
        lines = _EVENTS.read_text().splitlines()
    except OSError:
        return set()
    return {line.split()[0].partition(":")[2] for line in lines}


def _remove_events(events: set[str]) -> None:
    """What a bpftrace that gave up, or was ended, has left in the kernel."""
    for event in events:
        descriptor = os.open(_EVENTS, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, f"-:{event}\n".encode())
        finally:
            os.close(descriptor)


def _seconds(answer: float | str) -> str:
    return answer if isinstance(answer, str) else f"{answer:.2f} s"


def _against_bpftrace() -> None:
    stamp = str(build_target(_HERE / "targets" / "stamp.c"))
    bpftrace = shutil.which("bpftrace")
    reason = "bpftrace is not installed" if bpftrace is None else ""
    if not reason and os.geteuid() != 0:
        reason = "bpftrace needs root"
    print("from the command's start until the launched program's main(), all probes in place:")
    for wildcard in _WILDCARDS:
        ours = _until_main(
            [
                sys.executable,
                "-m",
                "ptrace_uprobes",
                "--count",
                "-e",
                f"libc:{wildcard}",
                "--",
                stamp,
            ],
            {},
            _BPFTRACE_LIMIT,
        )
        theirs: float | str = f"not measured: {reason}"
        if bpftrace is not None and not reason:
            before = _kernel_events()
            theirs = _until_main(
                [
                    bpftrace,
                    "-e",
                    f"uprobe:{_libc()}:{wildcard} {{ @hits = count(); }}",
                    "-c",
                    stamp,
                ],
                {"BPFTRACE_MAX_PROBES": "100000"},
                _BPFTRACE_LIMIT,
            )
            _remove_events(_kernel_events() - before)
        print(
            f"  libc:{wildcard:12} ours {_seconds(ours)}   bpftrace {_seconds(theirs)}", flush=True
        )


def main() -> None:
    _by_number()
    _against_bpftrace()


if __name__ == "__main__":
    main()
