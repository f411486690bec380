"""Definitions of USDT probes at one marker, which says itself where its arguments are."""

from __future__ import annotations

from dataclasses import replace

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.definition.definition import Definition
from ptrace_uprobes.definition.fetcharg import FetchArg
from ptrace_uprobes.definition.operands import with_operands
from ptrace_uprobes.probe import SiteCount
from ptrace_uprobes.symbols.marker_operands import operands_of
from ptrace_uprobes.symbols.markers import Marker
from ptrace_uprobes.symbols.modules import Module

__all__ = ["definition_at", "fetchargs_at", "marker_at"]


def marker_at(count: SiteCount, module: Module | None, address: VirtAddr) -> Marker | None:
    """The marker that the probe found at this place, if it is one."""
    return None if module is None else count.markers.get(module.to_elf(address))


def fetchargs_at(
    definition: Definition, module: Module, marker: Marker | None
) -> tuple[FetchArg, ...]:
    """What is fetched there. Raises `BadSpec` for an argument that the marker does not have."""
    if marker is None:
        return definition.fetchargs
    return with_operands(definition, operands_of(module.image, marker))


def definition_at(
    definition: Definition, module: Module | None, marker: Marker | None
) -> Definition:
    """As `fetchargs_at`, with the marker's semaphore."""
    if module is None or marker is None:
        return definition
    semaphore = None if marker.semaphore is None else module.image.offset_of(marker.semaphore)
    fetchargs = fetchargs_at(definition, module, marker)
    return replace(definition, fetchargs=fetchargs, ref_ctr_offset=semaphore)
