"""Whether the code at an address is what its module's file says it is.

Symbols come from a file, and instructions from memory. Where the two do not belong together a
probe would be at some other code than the user meant: after the file was written to, or where the
program has put something else in its place.
"""

from __future__ import annotations

from bisect import bisect_left

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.errors import BadAddress
from ptrace_uprobes.symbols.modules import Module

__all__ = ["check_file", "check_likeness"]


def check_likeness(
    record: SpaceRecord, module: Module, address: VirtAddr, code: bytes
) -> str | None:
    """Compare an instruction, as it stands in memory, with the module's file.

    Raises `BadAddress` where it is somebody else's: of another file or part of one, or another
    tracer's trap. What the program itself has changed in its text, as for a patched function, is
    what will run: then this is a warning's text.
    """
    image = module.image
    at = module.to_elf(address)
    offset = image.offset_of(at)
    if image.identity is None or offset is None:
        return None  # read from memory itself; or past what the file has of a segment
    mapping = record.mapping_at(address)
    if mapping is not None and mapping.is_file:
        mapped = mapping.offset + (address - mapping.start)
        if (mapping.path, mapped) != (module.path, offset):
            raise BadAddress(
                address,
                f"what is mapped there is {mapping.path}+{mapped:#x}, and not "
                f"{module.path}+{offset:#x}",
            )
    stated = image.bytes_at(at, len(code))
    if not stated:
        raise BadAddress(address, f"{module.name} has nothing there any more")
    differing = [index for index in range(len(code)) if code[index] != stated[index]]
    if not differing or all(_is_relocated(module, at + index) for index in differing):
        return None
    trap = record.space.architecture.breakpoint
    if code.startswith(trap):
        raise BadAddress(
            address,
            f"there is a breakpoint of somebody else's, as another tracer's or a kernel uprobe; "
            f"{module.name} has {stated.hex(' ')} there",
        )
    return (
        f"the program has changed its code at {address:#x}: {module.name} has {stated.hex(' ')} "
        f"there, memory {code.hex(' ')}, which is what is probed"
    )


def check_file(module: Module, address: VirtAddr) -> None:
    """Raise `BadAddress` if the file is not what it was when its symbols were read: they are of
    other code then, or, past the end of a file that was cut short, of none (mmap(2), SIGBUS)."""
    if not module.image.is_unchanged():
        raise BadAddress(
            address, f"{module.name} was written to, or replaced, while its symbols were in use"
        )


def _is_relocated(module: Module, at: int) -> bool:
    places, size = module.image.text_relocations, module.image.relocation_size
    first = bisect_left(places, at - size + 1)
    return first < len(places) and places[first] <= at
