"""A probe's definition: where, whether at the return, and what to record.

    ours      [MODULE:]PLACE[%return] [FETCHARG...]          libc:malloc size=%di:u64
    bpftrace  uprobe:MODULE:PLACE [FETCHARG...]              uretprobe:libc:malloc $retval
              usdt:MODULE:[PROVIDER:]NAME [FETCHARG...]      usdt:libstdc++:libstdcxx:throw arg0
    kernel    p[:[GRP/]EVENT] PATH:OFFSET[(REF)][%return] [FETCHARG...]
              r[:[GRP/]EVENT] PATH:OFFSET[(REF)] [FETCHARG...]

docs/definitions.md is the language's reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from ptrace_uprobes.definition.fetcharg import FetchArg
from ptrace_uprobes.definition.fetcharg_format import format_fetcharg
from ptrace_uprobes.definition.fetcharg_text import parse_fetchargs
from ptrace_uprobes.definition.kernel_command import parse_command
from ptrace_uprobes.definition.spec import Spec, parse_marker, parse_place, split_module
from ptrace_uprobes.errors import BadSpec

__all__ = ["LONGEST_DEFINITION", "Definition", "Notation", "parse_definition"]

LONGEST_DEFINITION = 16 * 1024
"""Characters: 128 fetchargs at their longest fit."""

_BLANK = " \t\n\v\f\r"
_BPFTRACE = re.compile(r"(uprobe|uretprobe|usdt|ur|u|U)(?=:(?:[^:\s]+|[/.][^:]+):)")
_NO_MODULE = re.compile(r"(uprobe|uretprobe|usdt)(?=:)")
# The short forms may be programs' names; with two colons they are not.
_NOT_OF_PROGRAMS = re.compile(
    r"(?:(?:raw)?tracepoint|k(?:ret)?probe|k(?:ret)?func|fentry|fexit|profile|interval|software"
    r"|hardware|(?:async)?watchpoint|(?:rt|t|kr|k|fr|f|p|i|s|h|aw|w|it|iter)(?=:[^:/\s]+:))(?=:(?!:))"
)
# A fetcharg as the second word: it is ours, of a symbol or a module that is called `p`.
_KERNEL = re.compile(
    r"([pr])([0-9]*)(:[^ \t\n\v\f\r]*)?[ \t\n\v\f\r]+(?=[^ \t\n\v\f\r])"
    r"(?!(?:[A-Za-z_][A-Za-z0-9_]*=)?(?:[%$@+\\-]|arg[0-9]+(?:[: \t\n\v\f\r]|$)))"
)
_KERNEL_REMOVAL = re.compile(r"-:")
_RETURN = "%return"


class Notation(Enum):
    OURS = "ours"
    BPFTRACE = "bpftrace"
    KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class Definition:
    """What a user asked for, as text told it; nothing has been looked up."""

    text: str
    """As given."""
    place: Spec
    is_return: bool = False
    fetchargs: tuple[FetchArg, ...] = ()
    group: str | None = None
    """The kernel notation's GRP and EVENT."""
    event: str | None = None
    ref_ctr_offset: int | None = None
    """Where in the file the semaphore is, the kernel's `(0x1234)`."""
    notation: Notation = Notation.OURS

    @property
    def is_file_offset(self) -> bool:
        """The place is an offset in the module's file, no address in it."""
        return self.place.file_offset is not None

    def canonical(self) -> str:
        """The same definition in one spelling: ours, or the kernel's for what only that can
        say (a group, an event, an offset in a file, a semaphore)."""
        place = self.place
        if self.notation is Notation.KERNEL:
            event = f"{self.group}/" if self.group is not None else ""
            event += self.event or ""
            command = ("r" if self.is_return else "p") + (f":{event}" if event else "")
            reference = "" if self.ref_ctr_offset is None else f"({self.ref_ctr_offset:#x})"
            words = [command, f"{place.module}:{place.place}{reference}"]
        elif place.provider is not None:
            words = [f"usdt:{place.module}:{place.place}"]
        else:
            module = "" if place.module is None else f"{place.module}:"
            if _is_a_notations(module) or module.startswith(("#", "-")):
                # A module that is called as a notation's word: only bpftrace's can say it.
                prefix, suffix = "uretprobe:" if self.is_return else "uprobe:", ""
            else:
                prefix, suffix = "", _RETURN if self.is_return else ""
            words = [f"{prefix}{module}{place.place}{suffix}"]
        return " ".join([*words, *map(format_fetcharg, self.fetchargs)])


def parse_definition(text: str) -> Definition:
    """The definition that `text` is; raises `BadSpec` with the position of what is wrong."""
    if not text.strip(_BLANK):
        raise BadSpec(text, 0, "it is empty")
    if len(text) > LONGEST_DEFINITION:
        why = f"a definition has at most {LONGEST_DEFINITION} characters"
        raise BadSpec(text[:60] + "...", 60, why)
    if (nul := text.find("\0")) >= 0:
        raise BadSpec(text, nul, "it holds a NUL character")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadSpec(text, error.start, "it is not text") from error
    begin = len(text) - len(text.lstrip(_BLANK))
    if text.startswith("#", begin):
        raise BadSpec(text, begin, "a comment defines no probe")
    if _KERNEL_REMOVAL.match(text, begin):
        raise BadSpec(text, begin, "'-:' removes a probe from the kernel; it defines none")
    if command := _KERNEL.match(text, begin):
        return _parse_kernel(text, command)
    if prefix := _BPFTRACE.match(text, begin):
        return _parse_bpftrace(text, prefix)
    if prefix := _NO_MODULE.match(text, begin):
        word = prefix.group()
        form = "MODULE:NAME" if word in ("usdt", "U") else "MODULE:PLACE, as {word}:libc:malloc"
        why = f"a module is missing: {word}:{form.format(word=word)}"
        raise BadSpec(text, prefix.end() + 1, why)
    if kind := _NOT_OF_PROGRAMS.match(text, begin):
        why = "only uprobe:, uretprobe: and usdt: are probes of programs"
        raise BadSpec(text, begin, f"{why}; a program so called is ./{kind.group()}")
    return _parse_ours(text, begin, Notation.OURS, is_return=False)


def _is_a_notations(module: str) -> bool:
    """`MODULE:` would be read as a word of some notation, were it the first."""
    return any(one.match(module) for one in (_BPFTRACE, _NO_MODULE, _NOT_OF_PROGRAMS))


def _parse_bpftrace(text: str, prefix: re.Match[str]) -> Definition:
    if prefix.group() in ("usdt", "U"):
        begin = prefix.end() + 1
        end = _end_of_place(text, begin)
        marker = parse_marker(text, begin, end)
        fetchargs = parse_fetchargs(text, end, len(text), is_return=False)
        return Definition(text, marker, False, fetchargs, notation=Notation.BPFTRACE)
    is_return = prefix.group() in ("uretprobe", "ur")
    return _parse_ours(text, prefix.end() + 1, Notation.BPFTRACE, is_return=is_return)


def _parse_ours(text: str, begin: int, notation: Notation, *, is_return: bool) -> Definition:
    end = _end_of_place(text, begin)
    place_end = end
    _, start = split_module(text, begin, end)
    if text.endswith(_RETURN, start, end):
        place_end = end - len(_RETURN)
        if notation is Notation.BPFTRACE:
            why = "bpftrace's notation says it with uretprobe:, without %return"
            raise BadSpec(text, place_end, why)
        is_return = True
    place = parse_place(text, begin, place_end)
    if is_return and place.offset:
        plus = text.index("+", start)
        raise BadSpec(text, plus, "a return probe belongs at a function's first instruction")
    if place.line is not None:
        if is_return:
            why = "a return probe belongs at a function; a line does not return"
            raise BadSpec(text, place_end, why)
        if notation is Notation.BPFTRACE and place.module is None:
            raise BadSpec(text, start, "write an address in hexadecimal, as 0x401234")
    fetchargs = parse_fetchargs(text, end, len(text), is_return=is_return)
    return Definition(text, place, is_return, fetchargs, notation=notation)


def _end_of_place(text: str, begin: int) -> int:
    """Where the white space before the fetchargs begins.

    A path may hold blanks: one belongs to it while no `:PLACE` has come after its last `/`.
    """
    is_path = text.startswith(("/", "."), begin)
    last = len(text.rstrip(_BLANK))
    seen_colon = not is_path or ":" not in text[begin:last]
    in_quotes = False
    for at in range(begin, last):
        character = text[at]
        if character == '"' and (in_quotes or at == begin or text[at - 1] == ":"):
            in_quotes = not in_quotes
        elif in_quotes:
            continue
        elif character in _BLANK:
            if seen_colon:
                return at
        elif is_path and character == ":":
            seen_colon = True
        elif is_path and character == "/":
            seen_colon = False
    return last


def _parse_kernel(text: str, match: re.Match[str]) -> Definition:
    comment = text.find("#", match.start())  # wherever it stands, as trace_parse_run_command
    last = comment if comment >= 0 else len(text)
    command = parse_command(text, match, last)
    fetchargs = parse_fetchargs(text, command.end, last, is_return=command.is_return)
    return Definition(
        text,
        command.place,
        command.is_return,
        fetchargs,
        command.group,
        command.event,
        command.ref_ctr_offset,
        Notation.KERNEL,
    )
