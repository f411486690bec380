"""--merge: one file of a saved kernel trace and the hits of a run, by time."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from ptrace_uprobes.cli.diagnostics import warning_lines
from ptrace_uprobes.cli.options import Options
from ptrace_uprobes.errors import OutputError, UprobesError, UsageError
from ptrace_uprobes.input_file import open_input
from ptrace_uprobes.output.sink import Sink
from ptrace_uprobes.output.timeline import MergeReport, NotATrace, merge

__all__ = ["check_mergeable", "merge_files", "merge_into"]


def merge_files(options: Options) -> int:
    """`--merge TRACE [-o FILE] HITS_FILE`; the result is the exit status."""
    assert options.merge is not None
    assert options.hits_file is not None
    if _is_same(options.merge, options.hits_file):
        raise UsageError(f"{options.hits_file} is given as the trace and as the hits")
    if options.output is not None:
        _check_not_the_same(options.output, options.merge)
        _check_not_the_same(options.output, options.hits_file)
    with open_input(options.merge) as trace, open_input(options.hits_file) as hits:
        if options.output is None:
            with Sink.over(1, "standard output") as sink:
                report = _merged(
                    options.merge,
                    trace,
                    hits,
                    lambda data: sink.write(data.decode("utf-8", "surrogateescape")),
                )
            sink.check()
        else:
            with _replacing(options.output) as output:
                report = _merged(options.merge, trace, hits, output.write)
    _tell(report)
    return 0


def merge_into(trace_path: str, path: str) -> None:
    """Merge the trace with the hits in the file `path`, into that file.

    The file has the hits alone until it has both: an error loses nothing.
    """
    with open_input(trace_path) as trace, open_input(path) as hits, _replacing(path) as output:
        report = _merged(trace_path, trace, hits, output.write)
    _tell(report)


def check_mergeable(path: str, trace_path: str) -> None:
    """Raise an error if the output cannot be what a run's hits are merged in."""
    _check_not_the_same(path, trace_path)
    if os.path.lexists(path) and not os.path.isfile(path):
        raise OutputError(f"--merge needs a file for -o, and {path} is none")


def _check_not_the_same(output: str, source: str) -> None:
    if _is_same(output, source):
        raise UsageError(f"-o {output} would overwrite {source}, which is to be merged")


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _merged(
    trace_path: str, trace: IO[bytes], hits: IO[bytes], write: Callable[[bytes], object]
) -> MergeReport:
    try:
        report = merge(trace, hits, write)
    except NotATrace as error:
        raise NotATrace(f"cannot merge {trace_path}: {error}") from error
    if not report.is_trace:
        raise NotATrace(
            f"cannot merge {trace_path}: it has no line with a time in seconds: is it text, and "
            "was its trace_clock mono?"
        )
    if not report.is_ours:
        raise NotATrace("cannot merge: the file of hits has neither a hit nor a summary of ours")
    return report


def _tell(report: MergeReport) -> None:
    for doubt in report.doubts():
        warning_lines(doubt)


@contextmanager
def _replacing(path: str) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when all is written; what is no regular file, such
    as a pipe or a terminal, is written to as it is."""
    real = os.path.realpath(path)
    try:
        mode = os.stat(real).st_mode
    except OSError:
        mode = None
    try:
        if mode is not None and not stat.S_ISREG(mode):
            with open(path, "wb") as output:
                yield output
            return
        with tempfile.NamedTemporaryFile(
            dir=os.path.dirname(real), prefix=f".{os.path.basename(real)}.", delete=False
        ) as output:
            try:
                yield output
                output.flush()
                os.fchmod(output.fileno(), stat.S_IMODE(mode) if mode is not None else _new_mode())
                os.replace(output.name, real)
            except BaseException:
                with suppress(OSError):
                    os.unlink(output.name)
                raise
    except (OSError, ValueError) as error:
        if isinstance(error, UprobesError):
            raise
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"cannot write {path}: {why}") from error


def _new_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
