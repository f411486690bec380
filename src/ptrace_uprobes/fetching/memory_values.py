"""What generated code calls for the rarer forms: long strings, arrays with holes.

HOT PATH, though not at every hit: each memory read is a system call.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from ptrace_uprobes.fetching.value import FAULT, Fault

__all__ = [
    "FIRST_READ",
    "LONGEST_STRING",
    "Read",
    "array",
    "bitfields",
    "read_string",
    "rest_of_string",
    "strings",
]

LONGEST_STRING = 4095
"""A longer one faults: `fetch_store_strlen` of kernel/trace/trace_probe_kernel.h gives up at
MAX_STRING_SIZE, which is PATH_MAX, the NUL counted."""
FIRST_READ = 256
"""Most strings end in it; more would only be copied."""
_MASK = (1 << 64) - 1

Read = Callable[[int, int], bytes]


def read_string(read: Read, address: int) -> bytes | Fault:
    """The bytes up to a NUL; a fault if none comes in time, or before memory ends."""
    data = read(address, FIRST_READ)
    end = data.find(b"\0")
    return data[:end] if end >= 0 else rest_of_string(read, address, data)


def rest_of_string(read: Read, address: int, data: bytes) -> bytes | Fault:
    """As `read_string`, where `data` is what a first read gave and holds no NUL."""
    if len(data) < FIRST_READ:
        return FAULT
    address = (address + FIRST_READ) & _MASK
    more = read(address, LONGEST_STRING + 1 - FIRST_READ)
    end = more.find(b"\0")
    return data + more[:end] if end >= 0 else FAULT


def array(
    read: Read, address: int, data: bytes, count: int, struct: Struct
) -> tuple[int | float | Fault, ...]:
    """The elements of an array whose first bytes are `data`, less than all: what lies behind
    a hole is read, as the kernel fetches each element by itself."""
    size = struct.size
    elements: list[int | float | Fault] = [
        struct.unpack_from(data, start)[0] for start in range(0, len(data) - size + 1, size)
    ]
    for index in range(len(elements), count):
        part = read((address + index * size) & _MASK, size)
        elements.append(struct.unpack(part)[0] if len(part) == size else FAULT)
    return tuple(elements)


def bitfields(
    containers: tuple[int | Fault, ...], shift: int, mask: int
) -> tuple[int | Fault, ...]:
    """The same bits of each container."""
    return tuple([FAULT if x is FAULT else x >> shift & mask for x in containers])


def strings(read: Read, address: int, count: int, size: int = 8) -> tuple[bytes | Fault, ...]:
    """The strings that an array of pointers, of `size` bytes each, points to."""
    values: list[bytes | Fault] = []
    for index in range(count):
        word = read((address + size * index) & _MASK, size)
        faulted = len(word) != size
        values.append(FAULT if faulted else read_string(read, int.from_bytes(word, "little")))
    return tuple(values)
