"""The entries of `.eh_frame` and `.debug_frame`: CIEs, and FDEs, one for each range of code.

LSB Core 5.0, 10.6.1; DWARF 5, section 6.4.1. Lengths and positions that they give are held
against the section; a CIE names no other entry, so that there are no cycles to follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from ptrace_uprobes.symbols.call_frames import FrameBytes
from ptrace_uprobes.unwind.cursor import OMITTED, Cursor, Malformed

__all__ = ["Cie", "Entries", "Fde"]

_LONGEST_ENTRY: Final = 1 << 18
_LONGEST_CIE: Final = 1 << 12
_MOST_CIES: Final = 1 << 12
"""Kept; a file may have one for each function, and each of them may overlap the others."""
_FIRST_READ: Final = 256
_MOST_ENTRIES: Final = 1 << 19
_MOST_SCANNED: Final = 1 << 26
_ABSOLUTE: Final = 0
_IS_CIE: Final = -1


@dataclass(frozen=True, slots=True)
class Cie:
    """What the functions of one object file have in common."""

    code_alignment: int
    data_alignment: int
    return_address: int
    """The register column that stands for it."""
    pointer_encoding: int
    has_augmentation_length: bool
    is_signal: bool
    """The code is a signal trampoline: its caller was interrupted, and has called nothing."""
    instructions: bytes


@dataclass(frozen=True, slots=True)
class Fde:
    """How to unwind from `begin` up to `end`, in the file's addresses."""

    cie: Cie
    begin: int
    end: int
    instructions: bytes


class _Entry(NamedTuple):
    cursor: Cursor
    """Behind its id."""
    base: int
    """Where in the section the cursor's data begins."""
    id_at: int
    pointer: int
    """What its id says."""
    after: int


class Entries:
    """The entries of one section, read one at a time."""

    def __init__(self, section: FrameBytes, *, is_eh: bool) -> None:
        self._section = section
        self._is_eh = is_eh
        self._cies: dict[int, Cie | Malformed] = {}
        self._last: tuple[int, Fde] | None = None
        """Whoever asks about many addresses asks about one function's one after the other."""

    def fde(self, at: int) -> Fde:
        """The FDE at `at` in the section; raises `Malformed`."""
        if self._last is None or self._last[0] != at:
            self._last = at, self._read_fde(at)
        return self._last[1]

    def _read_fde(self, at: int) -> Fde:
        entry = self._open(self._section.read(at, _FIRST_READ), at, 0)
        cie_at = self._cie_of(entry)
        if cie_at is None:
            raise Malformed("a CIE where an FDE should be")
        cie, cursor = self.cie(cie_at), entry.cursor
        begin = cursor.pointer(cie.pointer_encoding, self._section.address + entry.base)
        length = cursor.pointer(cie.pointer_encoding & 0x0F)
        if cie.has_augmentation_length:
            cursor.take(cursor.uleb())
        return Fde(cie, begin, begin + length, cursor.rest())

    def cie(self, at: int) -> Cie:
        known = self._cies.get(at)
        if known is None:
            if len(self._cies) >= _MOST_CIES:
                self._cies.clear()
            try:
                known = self._read_cie_at(at)
            except Malformed as error:
                known = Malformed(str(error))
            self._cies[at] = known
        if isinstance(known, Malformed):
            raise Malformed(str(known))
        return known

    def _read_cie_at(self, at: int) -> Cie:
        entry = self._open(self._section.read(at, _FIRST_READ), at, 0, _LONGEST_CIE)
        if self._cie_of(entry) is not None:
            raise Malformed("an FDE where a CIE should be")
        return _read_cie(entry.cursor, self._section.word)

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Begin, end and place of every FDE that can be read, in the section's order."""
        section = self._section
        data = section.read(0, min(section.size, _MOST_SCANNED))
        at = 0
        for _ in range(_MOST_ENTRIES):
            if at + 4 > len(data):
                return
            if data[at : at + 4] == b"\0\0\0\0":
                if self._is_eh:
                    return  # the terminator
                at += 4
                continue
            try:
                entry = self._open(data, 0, at)
            except Malformed:
                return  # where the next one begins is not known
            try:
                cie_at = self._cie_of(entry)
                if cie_at is not None:
                    encoding = self.cie(cie_at).pointer_encoding
                    begin = entry.cursor.pointer(encoding, section.address + entry.base)
                    yield begin, begin + entry.cursor.pointer(encoding & 0x0F), at
            except Malformed:
                pass
            at = entry.after

    def _open(self, data: bytes, base: int, start: int, longest: int = _LONGEST_ENTRY) -> _Entry:
        """The entry at `start` in `data`, which begins at `base` in the section."""
        cursor = Cursor(data, start, word=self._section.word)
        length, id_size = cursor.unsigned(4), 4
        if length == 0xFFFFFFFF:
            length = cursor.unsigned(8)
            id_size = 4 if self._is_eh else 8
        body = cursor.at
        if length == 0 or length > self._section.size - base - body:
            raise Malformed("an entry's length is not true")
        if body + length > len(data):
            if length > longest:
                raise Malformed("an entry is too long")
            base, body = base + start, body - start
            data = self._section.read(base, body + length)
        cursor = Cursor(data, body, body + length, self._section.word)
        pointer = cursor.unsigned(id_size)
        if pointer == (1 << 8 * id_size) - 1 and not self._is_eh:
            pointer = _IS_CIE
        return _Entry(cursor, base, base + body, pointer, base + body + length)

    def _cie_of(self, entry: _Entry) -> int | None:
        """Where an entry's CIE is; None if it is itself one."""
        if self._is_eh:
            return entry.id_at - entry.pointer if entry.pointer else None
        return None if entry.pointer == _IS_CIE else entry.pointer


def _read_cie(cursor: Cursor, word: int) -> Cie:
    version = cursor.unsigned(1)
    if version not in (1, 3, 4):
        raise Malformed(f"a CIE of unknown version {version}")
    augmentation = cursor.string()
    if version == 4 and cursor.take(2) != bytes((word, 0)):
        raise Malformed(f"a CIE for addresses that are not of {8 * word} bits")
    if augmentation.startswith(b"eh"):
        cursor.take(word)  # gcc 2's pointer to exception tables
        augmentation = augmentation[2:]
    code_alignment, data_alignment = cursor.uleb(), cursor.sleb()
    return_address = cursor.unsigned(1) if version == 1 else cursor.uleb()
    encoding, is_signal = _ABSOLUTE, b"S" in augmentation
    has_length = augmentation.startswith(b"z")
    if has_length:
        content = Cursor(cursor.take(cursor.uleb()), word=word)
        for letter in augmentation[1:]:
            if letter == ord("R"):
                encoding = content.unsigned(1)
            elif letter == ord("L"):
                content.unsigned(1)
            elif letter == ord("P"):
                personality = content.unsigned(1)
                if personality != OMITTED:
                    content.pointer(personality & 0x0F)
            elif letter not in b"SB":
                break  # what follows is of unknown size, but its end is known
    elif augmentation not in (b"", b"S"):
        raise Malformed("a CIE with an unknown augmentation")
    return Cie(
        code_alignment=code_alignment,
        data_alignment=data_alignment,
        return_address=return_address,
        pointer_encoding=encoding,
        has_augmentation_length=has_length,
        is_signal=is_signal,
        instructions=cursor.rest(),
    )
