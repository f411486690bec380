"""USDT semaphores: a program's own counters of who is looking, `(REF)` in the kernel's notation.

Code that prepares a probe's arguments runs only while its semaphore is not 0. The kernel adds 1
for each uprobe that names one (`update_ref_ctr`, kernel/events/uprobes.c), and so do we.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.marked import marker_at
from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.probe import Probe, SiteCount
from ptrace_uprobes.symbols.modules import Module

__all__ = ["has_semaphore", "sync_semaphores"]

_SIZE = 2


def has_semaphore(probe: Probe) -> bool:
    """Whether there may be something to count in for it."""
    definition = probe.definition
    return bool(definition.ref_ctr_offset) or definition.place.provider is not None


def sync_semaphores(
    record: SpaceRecord, wanted: bool, warn: Callable[[str], None] = lambda text: None
) -> None:
    """Have each semaphore in the address space count the sites that name it; none unless
    `wanted`. `warn` is told of those that are none."""
    due: Counter[int] = Counter()
    for placed in record.sites().values() if wanted else ():
        addresses = set()
        for count in placed.all_counts:
            module = record.module_at(placed.address)
            if module is not None and count.probe.enabled and not count.probe.removed:
                offset = _offset_of(count, module, placed.address)
                addresses.add(_address_of(record, count, module, offset, warn))
        due.update(address for address in addresses if address is not None)
    for address in due.keys() | record.semaphores.keys():
        change = due[address] - record.semaphores.get(address, 0)
        if not change:
            continue
        try:
            value = int.from_bytes(record.traps.read(address, _SIZE), "little") + change
            record.traps.write(address, max(value, 0).to_bytes(_SIZE, "little"))
        except (MemoryFault, OverflowError):
            continue  # its library has been unloaded, or it is no counter
        record.semaphores[address] = due[address]


def _offset_of(count: SiteCount, module: Module, address: VirtAddr) -> int | None:
    """Where in its file the semaphore is: as the user says, or the marker."""
    marker = marker_at(count, module, address)
    if marker is None or marker.semaphore is None:
        return count.probe.definition.ref_ctr_offset
    return module.image.offset_of(marker.semaphore)


def _address_of(
    record: SpaceRecord,
    count: SiteCount,
    module: Module,
    offset: int | None,
    warn: Callable[[str], None],
) -> VirtAddr | None:
    """Where the probe's semaphore is, if it has one. Whatever else its offset leads to is not
    touched: it may be code. As `valid_ref_ctr_vma`, kernel/events/uprobes.c, has it."""
    if not offset:
        return None
    address = module.file_to_virtual(offset)
    if address is not None:
        if address in record.semaphores:
            return address
        mapping = record.mapping_at(address)
        if mapping is None:
            return None  # not yet: the dynamic linker maps a library piece by piece
        if mapping.is_file and mapping.is_writable and mapping.is_private:
            return address
    warn(
        f"{count.probe.spec}: no semaphore is at offset {offset:#x} of {module.path}: "
        "no writable memory has it; the probe is counted nowhere"
    )
    return None
