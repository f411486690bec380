"""What is to be put right in which program should we be killed: memory shared with the guardian.

It is written before the thing that it tells of is done, and struck out after that is undone, so
that whoever reads it after our death finds too much rather than too little. `guardian_main` reads
it, and has the same constants.

The memory is words of 8 bytes in blocks of 4096 bytes. Block 0 is the header; of every other one
word 0 names the owner, an address space, 0 if none, and each other word is an entry, 0 if none:
`kind << 56 | rest`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Final

__all__ = ["Account", "Ledger"]

_BLOCK: Final = 512
_WORD: Final = 8
_AREA: Final = 1 << 56

_GUARDIAN: Final = 1
_CLOSED: Final = 2
_NONCE: Final = 3
_NOT_STARTED: Final = 5
"""1 if no process could be made for it."""
_WATCHING: Final = 4
"""1 from when the guardian has started up."""
_PARKED: Final = _BLOCK
"""Block 1: while a thread of the program runs what we have it run, the bytes in a word of the
program's; else 0. Then the thread's owner, its number, the gadget, how many bytes stood there
before and those bytes; then, at a fixed place, the signal mask and the registers that it is to go
on with."""
_PARKED_BEFORE: Final = _PARKED + 5
_LENT: Final = _PARKED + 127
"""1 while those bytes are not in their place."""
_PARKED_STATE: Final = _PARKED + 128


class Ledger:
    """The shared memory. Raises OSError if there can be none."""

    __slots__ = ("_blocks", "_free", "_map", "fd", "nonce", "words")

    def __init__(self) -> None:
        self.fd = os.memfd_create("ptrace-uprobes-ledger", os.MFD_CLOEXEC)
        self._blocks = 16
        try:
            os.ftruncate(self.fd, self._blocks * _BLOCK * _WORD)
            self._map = mmap.mmap(self.fd, self._blocks * _BLOCK * _WORD)
        except OSError:
            os.close(self.fd)
            raise
        self.words = memoryview(self._map).cast("Q")
        self._free = list(range(self._blocks - 1, 1, -1))
        self.nonce = os.urandom(8)
        self.words[_NONCE] = int.from_bytes(self.nonce, "little")

    @property
    def guardian(self) -> int:
        """The guardian's pid, once it has been started."""
        return self.words[_GUARDIAN]

    def note_no_guardian(self) -> None:
        """For the process that could not start it."""
        self.words[_NOT_STARTED] = 1

    @property
    def has_no_guardian(self) -> bool:
        """Whether it could not be started."""
        return bool(self.words[_NOT_STARTED])

    @property
    def is_watched(self) -> bool:
        """Whether the guardian has done its work of starting up."""
        return bool(self.words[_WATCHING])

    def note_guardian(self, pid: int) -> None:
        """For the process that starts it."""
        self.words[_GUARDIAN] = pid

    def lend(self, owner: int, gadget: int, before: bytes) -> None:
        """A gadget is about to be written in the place of bytes of the program's."""
        self._note_gadget(owner, gadget, before)
        self.words[_LENT] = 1

    def give_back(self) -> None:
        """They are in their place again."""
        self.words[_LENT] = 0

    def _note_gadget(self, owner: int, gadget: int, before: bytes) -> None:
        words = self.words
        words[_PARKED + 1] = owner
        words[_PARKED + 3] = gadget
        words[_PARKED + 4] = len(before)
        _put(words, _PARKED_BEFORE, before + bytes(-len(before) % _WORD))

    def park(
        self,
        owner: int,
        tid: int,
        gadget: int,
        before: bytes,
        mask: int,
        registers: bytes,
        word_size: int,
    ) -> None:
        """A thread is about to be borrowed."""
        words = self.words
        words[_PARKED] = 0
        self._note_gadget(owner, gadget, before)
        words[_PARKED + 2] = tid
        _put(words, _PARKED_STATE, mask.to_bytes(_WORD, "little") + registers)
        words[_PARKED] = word_size

    def unpark(self) -> None:
        """It has its own state again."""
        self.words[_PARKED] = 0

    def take_block(self, owner: int) -> int:
        """A block for `owner`; gives the index of its first word."""
        if not self._free:
            self._grow()
        first = self._free.pop() * _BLOCK
        self.words[first + 1 : first + _BLOCK] = _NOTHING
        self.words[first] = owner
        return first

    def give_block(self, first: int) -> None:
        self.words[first] = 0
        self._free.append(first // _BLOCK)

    def _grow(self) -> None:
        more = self._blocks * 2
        self.words.release()
        try:
            self._map.resize(more * _BLOCK * _WORD)
        finally:
            self.words = memoryview(self._map).cast("Q")
        self._free = list(range(more - 1, self._blocks - 1, -1))
        self._blocks = more

    def close(self) -> None:
        """Nothing is left to be put right."""
        self.words[_CLOSED] = 1
        self.words.release()
        self._map.close()
        os.close(self.fd)


def _put(words: memoryview, place: int, data: bytes) -> None:
    words[place : place + len(data) // _WORD] = memoryview(data).cast("Q")


_NOTHING: Final = memoryview(bytes((_BLOCK - 1) * _WORD)).cast("Q")


class Account:
    """The entries of one address space, whose number is `owner`."""

    __slots__ = ("_blocks", "_free", "_ledger", "_places", "owner")

    def __init__(self, ledger: Ledger, owner: int) -> None:
        self._ledger = ledger
        self.owner = owner
        self._places: dict[int, int] = {}
        """Where each trap's entry is."""
        self._free: list[int] = []
        self._blocks: list[int] = []

    def note(self, traps: Iterable[tuple[int, int]]) -> None:
        """A trap is about to stand at each address, in the place of the byte with it."""
        ledger, places, free = self._ledger, self._places, self._free
        for address, original in traps:
            place = places.get(address)
            if place is None:
                if not free:
                    self._more()
                place = places[address] = free.pop()
            ledger.words[place] = address << 8 | original

    def strike(self, addresses: Iterable[int]) -> None:
        """No trap stands there any more."""
        words = self._ledger.words
        for address in addresses:
            place = self._places.pop(address, None)
            if place is not None:
                words[place] = 0
                self._free.append(place)

    def note_area(self, start: int) -> None:
        """Memory of ours begins there, with the ledger's nonce: fork children have it too."""
        if not self._free:
            self._more()
        self._ledger.words[self._free.pop()] = _AREA | start

    def _more(self) -> None:
        first = self._ledger.take_block(self.owner)
        self._blocks.append(first)
        self._free.extend(range(first + _BLOCK - 1, first, -1))

    def close(self) -> None:
        """The address space is gone, or let go of."""
        for first in self._blocks:
            self._ledger.give_block(first)
        self._blocks.clear()
        self._places.clear()
        self._free.clear()
