"""How an image was compressed, in the terms that codecs, files and samples share."""

from typing import Literal, NamedTuple, TypeAlias

UNKNOWN_QUALITY = -1
"""Stands for the quality of a file that does not tell it."""

Tables: TypeAlias = tuple[tuple[int, ...], ...]
"""Quantisation tables of 64 entries, row by row: of luma, then of chroma."""

Subsampling: TypeAlias = Literal["4:4:4", "4:2:2", "4:2:0"]


class Compression(NamedTuple):
    """How an image was compressed, as far as it is known."""

    codec: str
    """Name and version of the codec that made it; the bare format where a file does not tell."""
    quality: int
    """On the codec's own scale, or :data:`UNKNOWN_QUALITY`."""
    subsampling: str
    """``4:2:0`` and its like, ``4:0:0`` for grey, ``unknown`` where it is not known."""
