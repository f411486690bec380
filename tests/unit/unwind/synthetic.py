"""Call frame information and stacks made by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable

from ptrace_uprobes.symbols.call_frames import FrameBytes
from ptrace_uprobes.symbols.source import BytesSource
from ptrace_uprobes.unwind.entries import Entries

__all__ = ["CIE", "Memory", "entries", "fde", "section"]

ADDRESS = 0x2000


def _entry(body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    return struct.pack("<I", len(body)) + body


# version 1, "zR"; code 1, data -8, RA 16; DW_EH_PE_udata4;
# DW_CFA_def_cfa rsp 8, DW_CFA_offset ra cfa-8
CIE = _entry(struct.pack("<I", 0) + b"\1zR\0\1\x78\x10\1\x03" + b"\x0c\7\x08\x90\1")


def fde(at: int, begin: int, size: int, instructions: bytes, cie_at: int = 0) -> bytes:
    """An FDE at `at` in the section, of the CIE at `cie_at`."""
    head = struct.pack("<III", at + 4 - cie_at, begin, size)
    return _entry(head + b"\0" + instructions)


def section(*parts: bytes) -> bytes:
    return b"".join(parts) + b"\0\0\0\0"


def entries(data: bytes, *, is_eh: bool = True) -> Entries:
    return Entries(FrameBytes(BytesSource(data, "made"), 0, len(data), ADDRESS), is_eh=is_eh)


class Memory:
    """Words at addresses, as `read` of an unwinder."""

    def __init__(self, base: int, words: list[int]) -> None:
        self.base = base
        self.data = struct.pack(f"<{len(words)}Q", *words)

    def read(self, address: int, size: int) -> bytes:
        offset = address - self.base
        return self.data[offset : offset + size] if 0 <= offset < len(self.data) else b""


Reader = Callable[[int, int], bytes]
