"""All of one image's call frame information, by address.

A row costs a search and the execution of its instructions, so that rows are kept, by the exact
address that was asked for; tables, by image: processes and reloadings share them.
"""

from __future__ import annotations

import weakref
from array import array
from bisect import bisect_right
from typing import Final

from ptrace_uprobes.symbols.call_frames import FrameBytes
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.unwind.cursor import Cursor, Malformed
from ptrace_uprobes.unwind.entries import Entries, Fde
from ptrace_uprobes.unwind.history import CONVENTIONS
from ptrace_uprobes.unwind.row import Row, row_of

__all__ = ["ImageTables", "tables_of"]

_MOST_ROWS: Final = 1 << 16
_SORTED_TABLE: Final = 0x3B
"""DW_EH_PE_datarel | DW_EH_PE_sdata4: what every linker writes."""


class _Index:
    """The FDEs of a section by the address of their code, from the section itself."""

    def __init__(self, section: FrameBytes, *, is_eh: bool) -> None:
        self.entries = Entries(section, is_eh=is_eh)
        # Code that the linker left out is at 0, or of no size.
        found = sorted(r for r in self.entries.ranges() if 0 < r[0] < r[1] < 1 << 64)
        self._begins = array("Q", (begin for begin, _, _ in found))
        self._places = array("Q", (place for _, _, place in found))

    def has_start(self, address: int) -> bool:
        number = bisect_right(self._begins, address) - 1
        return number >= 0 and self._begins[number] == address

    def fde_at(self, address: int) -> Fde | None:
        number = bisect_right(self._begins, address) - 1
        return self.entries.fde(self._places[number]) if number >= 0 else None


class _SortedIndex:
    """The same, from the linker's `.eh_frame_hdr` (LSB Core 5.0, 10.6.2): nothing to build."""

    def __init__(self, table: FrameBytes, section: FrameBytes) -> None:
        self.entries = Entries(section, is_eh=True)
        data = table.read(0, table.size)
        cursor = Cursor(data, word=table.word)
        version, section_encoding, count_encoding, encoding = cursor.take(4)
        if version != 1 or encoding != _SORTED_TABLE:
            raise Malformed("an .eh_frame_hdr of an unknown form")
        cursor.pointer(section_encoding, table.address, table.address)
        count = cursor.pointer(count_encoding, table.address, table.address)
        if cursor.at % 4 or not 0 < count <= (len(data) - cursor.at) // 8:
            raise Malformed("the size of .eh_frame_hdr is not true")
        self._numbers = memoryview(data[cursor.at : cursor.at + count * 8]).cast("i")
        self._begins = self._numbers[::2]
        self._base = table.address
        self._section_base = table.address - section.address

    def has_start(self, address: int) -> bool:
        number = self._number_of(address)
        return number >= 0 and self._numbers[2 * number] + self._base == address

    def fde_at(self, address: int) -> Fde | None:
        number = self._number_of(address)
        if number < 0:
            return None
        return self.entries.fde(self._section_base + self._numbers[2 * number + 1])

    def _number_of(self, address: int) -> int:
        return bisect_right(self._begins, address - self._base) - 1


class ImageTables:
    """What one image says of its frames, and, where it says nothing, its debug file."""

    def __init__(self, image: Image) -> None:
        self._image = weakref.ref(image)
        self._rows: dict[int, Row | str] = {}
        self._indices: list[_Index | _SortedIndex] | None = None
        self._has_separate = False

    def row_at(self, address: int) -> Row | str:
        """How to unwind at an address of the file, or in a few words why that is not known."""
        row = self._rows.get(address)
        if row is None:
            if len(self._rows) >= _MOST_ROWS:
                self._rows.clear()
            row = self._rows[address] = self._find(address)
        return row

    def has_start(self, address: int) -> bool:
        """Whether an index says that code begins here which is described in one."""
        if self._indices is None:
            image = self._image()
            if image is None:
                return False
            self._indices = _indices_of(image)
        return any(index.has_start(address) for index in self._indices)

    def start_of(self, address: int) -> int | None:
        """Where the code begins that the file's own CFI describes in one with this address."""
        extent = self.extent_of(address)
        return None if extent is None else extent[0]

    def extent_of(self, address: int) -> tuple[int, int] | None:
        """Where that code begins and ends."""
        image = self._image()
        if image is None:
            return None
        if self._indices is None:
            self._indices = _indices_of(image)
        for index in self._indices:
            try:
                fde = index.fde_at(address)
            except Malformed:
                continue
            if fde is not None and fde.begin <= address < fde.end:
                return fde.begin, fde.end
        return None

    def _find(self, address: int) -> Row | str:
        image = self._image()
        if image is None or image.machine not in CONVENTIONS:
            return "not code for x86-64 or i386"
        why = "no CFI"
        if self._indices is None:
            self._indices = _indices_of(image)
        for _ in range(2):
            for index in self._indices:
                try:
                    fde = index.fde_at(address)
                    if fde is not None and fde.begin <= address < fde.end:
                        return row_of(fde, address)
                except Malformed as error:
                    why = f"bad CFI ({error})"
            if self._has_separate:
                break
            self._has_separate = True
            separate = image.separate_call_frames
            if separate is not None and separate.debug_frame is not None:
                self._indices.append(_Index(separate.debug_frame, is_eh=False))
            else:
                break
        return why


def _indices_of(image: Image) -> list[_Index | _SortedIndex]:
    frames = image.call_frames
    indices: list[_Index | _SortedIndex] = []
    if frames.eh_frame is not None:
        try:
            if frames.index is None:
                raise Malformed("no .eh_frame_hdr")
            indices.append(_SortedIndex(frames.index, frames.eh_frame))
        except Malformed:
            indices.append(_Index(frames.eh_frame, is_eh=True))
    if frames.debug_frame is not None:
        indices.append(_Index(frames.debug_frame, is_eh=False))
    return indices


_tables: weakref.WeakKeyDictionary[Image, ImageTables] = weakref.WeakKeyDictionary()


def tables_of(image: Image) -> ImageTables:
    tables = _tables.get(image)
    if tables is None:
        tables = _tables[image] = ImageTables(image)
    return tables
