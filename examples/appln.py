"""Builds the examples' application and looks up addresses in it, as the proposal does."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).with_name("appln.c")


@contextmanager
def built() -> Iterator[str]:
    """The program's path. Linked to a fixed address, as programs were in 2007."""
    with TemporaryDirectory() as folder:
        program = f"{folder}/appln"
        command = ["cc", "-O1", "-no-pie", "-fno-pie", str(SOURCE), "-o", program]
        subprocess.run(command, check=True)
        yield program


def address_of(function: str, program: str) -> int:
    """The address that objdump prints."""
    command = ["objdump", "-d", program]
    print(f"$ {shlex.join(command)} | grep '<{function}>:'")
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = re.search(rf"^([0-9a-f]+) <{re.escape(function)}>:$", listing, re.MULTILINE)
    if line is None:
        raise SystemExit(f"{program} has no {function}")
    print(line[0], flush=True)
    return int(line[1], 16)
