"""Where an image's bytes come from: a file, or memory.

Files are read with pread(2), never mapped: touching a mapped page past the end of a file
that somebody cuts short meanwhile is a SIGBUS (mmap(2)), and the death of the tracer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ptrace_uprobes.errors import MemoryFault, UnreadableElf
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.symbols.descriptors import KeptFile

__all__ = [
    "BytesSource",
    "FileIdentity",
    "FileSource",
    "MemorySource",
    "Source",
    "chunks",
    "identity_of",
]

_CHUNK = 96 << 10  # below malloc's threshold for mmap(2): fresh pages cost more than the copy


class Source(Protocol):
    """Bytes at offsets."""

    @property
    def name(self) -> str:
        """What an error calls it."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes; raises `UnreadableElf` where there are fewer."""

    def available(self, offset: int) -> int:
        """How many bytes there are from `offset` on."""


class FileIdentity(NamedTuple):
    """What tells one state of one file from every other."""

    device: int
    inode: int
    modified_ns: int
    size: int


class FileSource:
    """A regular file: that very one, whatever becomes of its path while it is open.

    A few dozen are open at a time (`descriptors`), each until the last of the modules, of any
    number of processes, that share it is gone.
    """

    __slots__ = ("_file", "identity", "name", "size")

    def __init__(self, path: str, name: str) -> None:
        """Opens `path`; errors call it `name`. Raises `UnreadableElf`."""
        self.name = name
        try:
            self._file = KeptFile(path)
        except OSError as error:
            raise UnreadableElf(name, error.strerror or str(error)) from error
        except ValueError as error:  # a NUL in the path
            raise UnreadableElf(name, str(error)) from error
        self.size = self._file.status.st_size
        self.identity = identity_of(self._file.status)

    def close(self) -> None:
        self._file.close()

    def is_unchanged(self) -> bool:
        """Whether the file has the time and size that it had when it was opened."""
        try:
            return identity_of(self._file.look()) == self.identity
        except OSError:
            return False

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise cut_short(self.name, offset, size)
        try:
            data = self._file.read(size, offset)
            while len(data) < size:
                more = self._file.read(size - len(data), offset + len(data))
                if not more:
                    raise cut_short(self.name, offset, size)
                data += more
        except OSError as error:
            raise UnreadableElf(self.name, error.strerror or str(error)) from error
        return data

    def available(self, offset: int) -> int:
        return max(0, self.size - offset)


class BytesSource:
    """A file's content in memory."""

    __slots__ = ("_data", "name", "size")

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self.name = name
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise cut_short(self.name, offset, size)
        return self._data[offset : offset + size]

    def available(self, offset: int) -> int:
        return max(0, self.size - offset)


class MemorySource:
    """A file as far as a live process has it mapped."""

    __slots__ = ("_mappings", "_read_memory", "name", "size")

    def __init__(
        self,
        read_memory: Callable[[int, int], bytes],
        mappings: Sequence[Mapping],
        name: str,
    ) -> None:
        """`mappings` are those of the one file that belong together."""
        self._read_memory = read_memory
        self._mappings = mappings
        self.name = name
        self.size = max((m.offset + m.size for m in mappings), default=0)

    def read(self, offset: int, size: int) -> bytes:
        pieces = []
        at, left = offset, size
        while left > 0:
            place = self._place(at)
            if place is None:
                raise cut_short(self.name, offset, size)
            address, available = place
            length = min(left, available)
            try:
                pieces.append(self._read_memory(address, length))
            except MemoryFault as error:
                raise UnreadableElf(self.name, str(error)) from error
            at, left = at + length, left - length
        return b"".join(pieces)

    def available(self, offset: int) -> int:
        at = offset
        while (place := self._place(at)) is not None:
            at += place[1]
        return at - offset

    def _place(self, offset: int) -> tuple[int, int] | None:
        """The address of a byte of the file, and how many bytes its mapping has from there."""
        for mapping in self._mappings:
            delta = offset - mapping.offset
            if 0 <= delta < mapping.size:
                return mapping.start + delta, mapping.size - delta
        return None


def identity_of(status: os.stat_result) -> FileIdentity:
    return FileIdentity(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def cut_short(name: str, offset: int, size: int) -> UnreadableElf:
    return UnreadableElf(name, f"it is cut short: {size} bytes at offset {offset:#x} are missing")


def chunks(source: Source, offset: int, size: int, unit: int = 1) -> Iterator[tuple[int, bytes]]:
    """`size` bytes at `offset` in pieces of whole `unit`s, each with its place in the range."""
    step = _CHUNK - _CHUNK % unit
    for start in range(0, size, step):
        yield start, source.read(offset + start, min(step, size - start))
