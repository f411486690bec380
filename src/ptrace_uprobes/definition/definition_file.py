"""A file of definitions: one a line, in any notation. `#` begins a comment."""

from __future__ import annotations

import io
import re
from typing import Final

from ptrace_uprobes.definition.definition import parse_definition
from ptrace_uprobes.errors import BadSpec, InputError, UsageError
from ptrace_uprobes.input_file import open_input

__all__ = ["read_definitions"]

_LARGEST: Final = 1 << 24
_COMMENT: Final = re.compile(r"(?:^|(?<=[ \t\v\f]))#.*")
"""A path may hold a `#`, so one that follows no blank is none (save in the kernel's notation)."""


def read_definitions(path: str) -> list[tuple[int, str]]:
    """The definitions of a file, checked, and the numbers of their lines; raises `UsageError`
    that names FILE:LINE."""
    try:
        with io.TextIOWrapper(open_input(path), "utf-8", "surrogateescape") as file:
            content = file.read(_LARGEST + 1)
    except InputError as error:
        raise UsageError(f"cannot read definitions from {path!r}: {error.why}") from error
    if len(content) > _LARGEST:
        raise UsageError(f"cannot read definitions from {path!r}: it is larger than 16 MiB")
    found = []
    for number, line in enumerate(content.removeprefix("\ufeff").split("\n"), 1):
        text = _COMMENT.sub("", line, count=1).rstrip(" \t\v\f\r")
        if not text:
            continue
        try:
            parse_definition(text)
        except BadSpec as error:
            raise UsageError(f"{path}:{number}: {error}") from error
        found.append((number, text.lstrip(" \t\v\f")))
    if not found:
        raise UsageError(f"{path!r} holds no definition")
    return found
