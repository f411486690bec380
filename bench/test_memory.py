"""The tracer's own memory with thousands of sites, in a fresh process that has imported no more
than a user's would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.support.target import start_target

from bench.contestants.contestant import BOUND_SECONDS, ROOT
from bench.made_programs import many_functions

_FUNCTIONS = 3_000
_SPECS = {f"{_FUNCTIONS:,} functions of a program": "f[0-9]*", "libc:*": "libc:*"}
_GROUP = "memory of the tracer"


@pytest.mark.benchmark(group=_GROUP)
@pytest.mark.parametrize("what", _SPECS)
def test_resident(what: str, figure: Callable[..., None]) -> None:
    with start_target(many_functions(_FUNCTIONS)) as target:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.attached_run", str(target.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        with process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{_SPECS[what]}\n")
                process.stdin.close()
                planted = json.loads(process.stdout.readline())
                assert target.finish().status == 5
                ended = json.loads(process.stdout.readline())
                process.wait(BOUND_SECONDS)
            finally:
                process.kill()
    assert process.returncode == 0
    assert ended["ended"] == "exited"
    assert not ended["missed"]
    if what != "libc:*":
        assert planted["sites"] == _FUNCTIONS
    for name, field, goal in (
        ("resident", "kilobytes", "under 80 MB"),
        ("at most", "kilobytes_at_most", ""),
        ("before attaching", "kilobytes_at_start", ""),
    ):
        figure(
            _GROUP,
            f"{what}: {name}",
            planted[field] * 1024,
            "bytes",
            kind="memory",
            sites=planted["sites"],
            goal=goal,
        )
