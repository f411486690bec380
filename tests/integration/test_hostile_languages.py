"""Programs that are not C: a runtime of their own, or code that is made while they run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from tests.support.copies import real_program
from tests.support.other_compilers import build_go, build_rust
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report


@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_rust_threads_and_panics(mechanism: str) -> None:
    program = build_rust("counted.rs", "v0")
    plain = run_plain([program, "400"])
    probed = run_probed([program, "400"], ["hot"], mechanism=mechanism)
    assert probed.outcome == plain
    assert probed.hits == {"hot": parse_report(plain.stdout.decode())["hot"]} == {"hot": 400}


def test_a_stripped_go_program_is_probed_by_what_its_own_tables_name(tmp_path: Path) -> None:
    # GIVEN a Go program without symbols, whose runtime has tables of its own
    program = Path(shutil.copy(build_go("returns_goroutines.go"), tmp_path / "goroutines"))
    offset = _go_function(program, "main.main")
    subprocess.run(["strip", program], check=True)
    argv = [str(program), "plain", "4", "8"]
    plain = run_plain(argv)

    # WHEN its main function is probed by its address
    probed = run_probed(argv, [f"goroutines:{offset:#x}"])

    # THEN it is hit once, and runs as it would
    assert probed.outcome.status == plain.status
    assert list(probed.hits.values()) == [1]


def _go_function(program: Path, name: str) -> int:
    listing = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    found = [line.split()[0] for line in listing.splitlines() if line.endswith(f" {name}")]
    return int(found[0], 16)


_CALLS = 3000


@pytest.mark.parametrize("launched", [True, False])
def test_a_just_in_time_compiler(launched: bool) -> None:
    # GIVEN a loop that V8 compiles while it runs, and that calls the C library
    node = real_program("node")
    script = (
        "let sum = 0; const hot = n => { for (let i = 0; i < n; i++) sum += process.getuid() + i };"
        "process.stdin.on('data', () => {}).on('end', () => {"
        f"for (let k = 0; k < 10; k++) hot({_CALLS // 10}); console.log(sum) }});"
        "console.log('ready')"
    )
    if launched:
        before = run_probed([node, "-e", "0"], ["libc:getuid"]).hits["libc:getuid"]
        plain = run_plain([node, "-e", script])
        probed = run_probed([node, "-e", script], ["libc:getuid"])
        assert probed.outcome == plain
        assert probed.hits["libc:getuid"] - before == _CALLS
        return
    with subprocess.Popen(
        [node, "-e", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # WHEN it is attached to before the loop
        with pu.attach(process.pid) as engine:
            probe = engine.probe("libc:getuid")
            engine.start()
            process.stdin.close()
            # THEN all of the loop's calls are counted
            assert process.stdout.readline() != ""
            assert probe.hits == _CALLS
