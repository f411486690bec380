"""Which --filter belongs to which -e: that depends on the order in which they were given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from ptrace_uprobes.cli.options import ProbeOption

__all__ = ["OrderedCommand", "pair_filters"]

_META = "ptrace_uprobes.probes_and_filters"


class OrderedCommand(click.Command):
    """Keeps the order between the options `specs` and `filters`, which click gives apart."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # The parser tells the parameters in the order of their use, each as often as it was
        # used, and the values of each in the order of theirs.
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        following = {name: iter(values.get(name) or ()) for name in ("specs", "filters")}
        ctx.meta[_META] = [
            (parameter.name, next(following[parameter.name]))
            for parameter in order
            if parameter.name in following
        ]
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    @staticmethod
    def probes(context: click.Context) -> tuple[ProbeOption, ...]:
        """The probes of this command line; raises `click.UsageError`."""
        return pair_filters(context.meta[_META])


def pair_filters(options: Iterable[tuple[Any, str]]) -> tuple[ProbeOption, ...]:
    """A filter belongs to the probes before it that have none yet; one given before any probe
    belongs to all that follow and get none of their own. Equal probes are one."""
    specs: list[str] = []
    filters: list[str | None] = []
    default: str | None = None
    for name, value in options:
        if name == "specs":
            specs.append(value)
            filters.append(None)
        elif None in filters:
            filters = [value if theirs is None else theirs for theirs in filters]
        elif not specs and default is None:
            default = value
        else:
            raise click.UsageError(
                f"--filter {value!r} belongs to no probe: every -e before it has a filter"
                if specs
                else "two --filter options before the first -e: join them with &&"
            )
    if default is not None and None not in filters:
        raise click.UsageError(
            f"--filter {default!r} belongs to no probe: "
            + ("no -e follows it" if not specs else "every -e after it has a filter of its own")
        )
    return tuple(
        dict.fromkeys(
            ProbeOption(spec, default if own is None else own)
            for spec, own in zip(specs, filters, strict=True)
        )
    )
