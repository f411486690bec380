"""A probe's fetchargs and filter, compiled into one function that runs at each hit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.definition.condition import Condition
from ptrace_uprobes.definition.fetcharg import FetchArg, Kind
from ptrace_uprobes.fetching.conditions import ConditionWriter, undecided
from ptrace_uprobes.fetching.context import FetchContext
from ptrace_uprobes.fetching.joined_reads import joined_reads
from ptrace_uprobes.fetching.layout import Layout
from ptrace_uprobes.fetching.memory_values import array, bitfields, rest_of_string, strings
from ptrace_uprobes.fetching.rendering import dict_renderer, json_renderer, text_renderer
from ptrace_uprobes.fetching.sources import SourceWriter
from ptrace_uprobes.fetching.value import FAULT, Value
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS

__all__ = ["Fetcher", "Value", "compile_fetcher"]

_STRINGS: Final = (Kind.STRING, Kind.USER_STRING)
_KEPT: Final = 64
"""Programs kept: one probe may have thousands of places."""

Fetch = Callable[[FetchContext], tuple[Value, ...] | None]


@dataclass(frozen=True, slots=True)
class Fetcher:
    """What one probe records at one place. Its functions run at each hit."""

    names: tuple[str, ...]
    needs_registers: bool
    fetch: Fetch
    """The values in the order of `names`; None where the filter rejects the hit."""
    as_text: Callable[[tuple[Value, ...]], str]
    """`a=0x1 b="x"`, as the kernel prints them; empty if there are no fetchargs."""
    as_dict: Callable[[tuple[Value, ...]], dict[str, Value]]
    as_json: Callable[[tuple[Value, ...]], dict[str, object]]
    """Hexadecimal types as "0x..", others as numbers and strings; a fault as null."""


@dataclass(frozen=True, slots=True)
class _Program:
    """What all places of a probe share. `fetcher` where no fetcharg depends on the place."""

    file_offsets: tuple[int, ...]
    bind: Callable[[Sequence[int]], Fetcher]
    fetcher: Fetcher | None
    condition: Condition | None
    """Held, since programs are found by its identity."""


_programs: OrderedDict[tuple[object, ...], _Program] = OrderedDict()


def compile_fetcher(
    fetchargs: Sequence[FetchArg],
    condition: Condition | None = None,
    *,
    is_return: bool,
    layout: Layout,
    filter_text: str = "",
) -> Fetcher:
    """Raises `BadSpec` for a fetcharg that such a probe cannot have, `BadFilter` (with the
    position in `filter_text`) for a filter that does not fit the fields."""
    arguments = tuple(fetchargs)
    # By identity: a condition may be nested too deeply to be hashed.
    key = (arguments, id(condition), is_return, layout.architecture.name)
    program = _programs.get(key)
    if program is None:
        program = _compile(arguments, condition, is_return, layout.architecture, filter_text)
        _programs[key] = program
        if len(_programs) > _KEPT:
            _programs.popitem(last=False)
    if program.fetcher is not None:
        return program.fetcher
    return program.bind([layout.to_virtual(offset) for offset in program.file_offsets])


def _compile(
    fetchargs: tuple[FetchArg, ...],
    condition: Condition | None,
    is_return: bool,
    architecture: Architecture,
    filter_text: str,
) -> _Program:
    sources = SourceWriter(architecture, is_return)
    sources.constants.update(
        FAULT=FAULT,
        array=array,
        bitfields=bitfields,
        rest_of_string=rest_of_string,
        strings=strings,
        from_bytes=int.from_bytes,
    )
    body = _body(sources, fetchargs, condition, filter_text)
    registers = sorted(sources.registers, key=USER_OFFSETS.__getitem__)
    if registers:
        words = _register_words(registers, architecture.word_size)
        sources.constants["unpack"] = words.unpack_from
        names = "".join(f"r_{name}, " for name in registers)
        body.insert(0, f"{names}= unpack(context.registers)")
    offsets = sources.file_offsets
    # Constants become variables of an enclosing function: faster than globals.
    lines = [f"def make({', '.join((*sources.constants, *offsets.values()))}):"]
    lines.append("  def fetch(context):")
    lines += (f"    {line}" for line in body)
    lines.append("  return fetch")
    namespace: dict[str, Any] = {}
    exec(compile("\n".join(lines), "<fetchargs>", "exec"), namespace)
    make = namespace["make"]
    constants = tuple(sources.constants.values())
    renderers = (text_renderer(fetchargs), dict_renderer(fetchargs), json_renderer(fetchargs))

    def bind(addresses: Sequence[int]) -> Fetcher:
        fetch: Fetch = make(*constants, *addresses)
        return Fetcher(
            tuple(argument.name for argument in fetchargs), bool(registers), fetch, *renderers
        )

    return _Program(tuple(offsets), bind, None if offsets else bind(()), condition)


def _body(
    sources: SourceWriter,
    fetchargs: Sequence[FetchArg],
    condition: Condition | None,
    filter_text: str,
) -> list[str]:
    """The statements of `fetch`."""
    lines = ["read = context.read"]
    known: frozenset[str] = frozenset()
    touched: set[str] = set()
    conditions = ConditionWriter(sources, fetchargs, filter_text)
    if condition is not None:
        text, known = conditions.write(condition)
        touched = conditions.touched
        # Set on some ways to here and not on others.
        doubtful = {f"v{index}" for index in range(len(fetchargs))} & (touched - known)
        if doubtful := doubtful | conditions.doubtful:
            lines.append(undecided(doubtful))
        lines += (f"if not {text}:", "  return None")
    missing = []
    for index, expression in enumerate(conditions.expressions):
        name = f"v{index}"
        if name in touched - known:
            lines += (f"if {name} is None:", f"  {name} = {expression}")
        elif name not in known:
            missing.append((name, expression))
    lines += joined_reads(missing)
    results = [_decoded(f"v{index}", argument) for index, argument in enumerate(fetchargs)]
    lines.append(f"return ({''.join(f'{result}, ' for result in results)})")
    return lines


def _decoded(name: str, argument: FetchArg) -> str:
    if argument.type.kind not in _STRINGS:
        return name
    decode = 'decode("utf-8", "surrogateescape")'
    if argument.type.count is not None:
        return f"tuple([x if x is FAULT else x.{decode} for x in {name}])"
    return f"({name} if {name} is FAULT else {name}.{decode})"


def _register_words(registers: Sequence[str], size: int) -> Struct:
    """Takes just the words of `registers`, which are in order, out of user_regs_struct; their
    lower halves where a register has 4 bytes."""
    layout, position = "<", 0
    for name in registers:
        offset = USER_OFFSETS[name]
        layout += f"{offset - position}x{'Q' if size == 8 else 'I'}"
        position = offset + size
    return Struct(layout)
