"""Sections that are compressed: never more of them than what they are good for."""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["MOST_DECOMPRESSED", "decompressed"]

MOST_DECOMPRESSED: Final = 1 << 26
_LARGEST_RATIO: Final = 64
"""Symbols and call frames become a tenth at best; what swells more was made to."""
_PIECE: Final = 1 << 20


class Decompressor(Protocol):
    """lzma's, or zlib's behind a method of this form."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def decompressed(decompressor: Decompressor, data: bytes, enough: int) -> bytes | None:
    """What `data` decompresses to: all of it, or its first `enough` bytes.

    None if it does not end, or swells beyond all reason. Raises the decompressor's own errors.
    """
    most = min(MOST_DECOMPRESSED, _LARGEST_RATIO * len(data) + _PIECE)
    pieces, size = [], 0
    while not decompressor.eof and size < enough:
        piece = decompressor.decompress(data, min(_PIECE, enough - size))
        data = b""
        if not piece and not decompressor.eof:
            return None  # cut short
        pieces.append(piece)
        size += len(piece)
        if size > most:
            return None
    return b"".join(pieces)
