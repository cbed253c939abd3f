"""How an image was compressed: terms shared by codecs, files and samples."""

from typing import Literal, NamedTuple, TypeAlias

UNKNOWN_QUALITY = -1
"""Quality of a file that does not state it."""

Tables: TypeAlias = tuple[tuple[int, ...], ...]
"""Quantisation tables of 64 entries, row by row: of luma, then of chroma."""

Subsampling: TypeAlias = Literal["4:4:4", "4:2:2", "4:2:0"]


class Compression(NamedTuple):
    """How an image was compressed, as far as it is known."""

    codec: str
    """Name and version of the codec; only the format if the file does not state more."""
    quality: int
    """On the codec's own scale, or :data:`UNKNOWN_QUALITY`."""
    subsampling: str
    """Such as ``4:2:0``; ``4:0:0`` for grey, or ``unknown``."""
