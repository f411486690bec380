"""USDT semaphores: a program's own counters of who is looking, `(REF)` in the kernel's notation.

Code that prepares a probe's arguments runs only while its semaphore is not 0. The kernel adds 1
for each uprobe that names one (`update_ref_ctr`, kernel/events/uprobes.c), and so do we.
"""

from __future__ import annotations

from collections import Counter

from ptrace_uprobes.engine.placed import SpaceRecord
from ptrace_uprobes.errors import MemoryFault

__all__ = ["sync_semaphores"]

_SIZE = 2


def sync_semaphores(record: SpaceRecord, wanted: bool) -> None:
    """Have each semaphore in the address space count the sites that name it; none unless
    `wanted`."""
    due: Counter[int] = Counter()
    for placed in record.sites().values() if wanted else ():
        addresses = set()
        for count in placed.all_counts:
            offset = count.probe.definition.ref_ctr_offset
            module = record.module_at(placed.address)
            if offset and module is not None and count.probe.enabled and not count.probe.removed:
                addresses.add(module.file_to_virtual(offset))
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
