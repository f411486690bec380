"""What `argN` is at one USDT marker: not the function-call ABI's argument, but the marker's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.definition.fetcharg import Argument, Dereference, FetchArg, Operand, Source
from ptrace_uprobes.errors import BadSpec

__all__ = ["with_operands"]


def with_operands(
    definition: Definition, operands: Sequence[Operand | str]
) -> tuple[FetchArg, ...]:
    """The definition's fetchargs with each `argN` replaced by `operands[N]`. A text among those
    is one that is not understood. Raises `BadSpec` for such a one, and one that is not there."""

    def replaced(source: Source, name: str) -> Source:
        if isinstance(source, Dereference):
            return replace(source, base=replaced(source.base, name))
        if not isinstance(source, Argument):
            return source
        position = max(definition.text.find(name), 0)
        if source.number >= len(operands):
            many = f"{len(operands)} argument{'s' * (len(operands) != 1)}"
            why = f"the marker has {many}, so that there is no arg{source.number}"
            raise BadSpec(definition.text, position, why)
        operand = operands[source.number]
        if isinstance(operand, str):
            why = f"arg{source.number} is at {operand!r}, which is not understood"
            raise BadSpec(definition.text, position, why)
        return operand

    return tuple(
        replace(argument, source=replaced(argument.source, argument.name))
        for argument in definition.fetchargs
    )
