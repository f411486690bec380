"""Modules whose instructions the dynamic linker has yet to complete.

A slot holds a copy of an instruction, and a copy made before would be wrong for good. So sites in
such a module wait until it is relocated.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from ptrace_uprobes.addresses import ElfAddr, VirtAddr
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.symbols.modules import Module

__all__ = ["is_unrelocated", "may_still_change"]

_LOOKED_AT: Final = 64


def is_unrelocated(record: SpaceRecord, module: Module) -> bool:
    """Whether the module has text relocations of which none has been made.

    Relocations change what stands in the file: by the module's load address, or a symbol's.
    """
    places = module.image.text_relocations
    if not places or module in record.text_relocated:
        return False
    size = module.image.relocation_size
    for place in places[:_LOOKED_AT]:
        in_file = module.image.bytes_at(ElfAddr(place), size)
        in_memory = record.traps.read_some(module.to_virtual(ElfAddr(place)), size)
        if in_file and in_memory and in_file != in_memory:
            record.text_relocated.append(module)
            return False
    return True


def may_still_change(record: SpaceRecord, address: VirtAddr, size: int) -> bool:
    """Whether a relocation that has not been made is in these bytes."""
    module = record.module_at(address)
    if module is None or not is_unrelocated(record, module):
        return False
    places, at = module.image.text_relocations, module.to_elf(address)
    following = bisect_left(places, at - module.image.relocation_size + 1)
    return following < len(places) and places[following] < at + size
