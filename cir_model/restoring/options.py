"""What can be chosen when pictures are restored: read by flags, options files and Python alike."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

Ensemble: TypeAlias = Literal["none", "transpose", "flips", "x8"]
"""Symmetries of the square over which a self-ensemble averages."""

FINE_QUALITY = 95
"""From this JPEG quality on a file is copied by default."""

MAX_PIXELS = 200_000_000
"""Larger pictures are refused by default, as a damaged header can claim any size."""


class InferenceOptions(msgspec.Struct, kw_only=True, frozen=True):
    """How images pass through networks: keys of ``val``, and flags of ``basicsr restore``."""

    tile: Annotated[
        Annotated[int, Meta(ge=0)] | Literal["auto"] | None,
        Meta(
            description="Height and width of tiles, rounded up to what suits the network; 0 or ~:"
            " whole images; auto: whole images where they fit into memory, else the largest tile"
            " that does."
        ),
    ] = None
    overlap: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Pixels that neighbouring tiles share; ~: by the network."),
    ] = None
    tiling: Annotated[
        Literal["blended", "ntire2024"],
        Meta(description="How tiles are joined; ntire2024 pads and averages as the winner did."),
    ] = "blended"
    self_ensemble: Annotated[
        Ensemble, Meta(description="Symmetries over whose outputs the result is averaged.")
    ] = "none"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Meta(description="Autocast; auto is bf16 where the device computes it fast, else fp32."),
    ] = "fp32"


@dataclass(frozen=True)
class RestoreOptions:
    """What is done with a file, and how the result is written."""

    quality: int = 95
    """Of JPEG, and of WebP, where 100 is lossless."""
    bits: int | None = None
    """8 or 16 for each sample; None: as the input, where the format can hold them."""
    strength: float | None = None
    """0 to 1, for networks that take one; None: by the quality of the file, else of its pixels."""
    overwrite: bool = False
    """Restore again what has a result, and replace files that stand in its place."""
    force: bool = False
    """Restore lossless files and fine JPEGs too, instead of copying them."""
    fine_quality: int = FINE_QUALITY
    """JPEGs of this quality and above are fine, by their tables."""
    max_pixels: int = MAX_PIXELS
    strict: bool = False
    """Refuse truncated and damaged files."""
