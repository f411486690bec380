"""Loads the user's handler from a file."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from ptrace_uprobes.cli.options import HandlerReference
from ptrace_uprobes.errors import HandlerLoadError
from ptrace_uprobes.probe import Hit

__all__ = ["load_handler"]

_MODULE_NAME = "ptrace_uprobes_handler_file"


def load_handler(reference: HandlerReference) -> Callable[[Hit], Any]:
    """The function that the reference names; raises `HandlerLoadError`, whose text is a line."""
    path = reference.path
    if not os.path.isfile(path):
        why = "no such file" if not os.path.lexists(path) else "not a file"
        raise HandlerLoadError(f"cannot load handler file {path}: {why}")
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise HandlerLoadError(f"cannot load handler file {path}: its name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    # Registered under its name: dataclasses and pickle look their module up there.
    sys.modules[_MODULE_NAME] = module
    # Last, so that a file beside the handler's can be imported and hides nothing of ours.
    sys.path.append(os.path.dirname(os.path.abspath(path)))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise HandlerLoadError(f"cannot load handler file {path}{_at(error, path)}") from error
    function = getattr(module, reference.function, None)
    if function is None:
        raise HandlerLoadError(f"handler file {path} has no function {reference.function!r}")
    if not callable(function):
        raise HandlerLoadError(f"{reference.function!r} in handler file {path} is not a function")
    checked: Callable[[Hit], Any] = function
    return checked


def _at(error: BaseException, path: str) -> str:
    """`, line N: Kind: text`, the line being the last one of the user's own file."""
    if isinstance(error, SyntaxError):
        where = "" if error.lineno is None else f", line {error.lineno}"
        return f"{where}: {type(error).__name__}: {error.msg}"
    if isinstance(error, OSError) and error.filename is not None:
        return f": {error.strerror}: {error.filename}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.realpath(frame.filename) == os.path.realpath(path)
    ]
    where = f", line {lines[-1]}" if lines else ""
    text = " ".join(str(error).split())
    return f"{where}: {type(error).__name__}" + (f": {text}" if text else "")
