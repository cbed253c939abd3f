"""Options of inference and restoration, shared by flags, options files and Python."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

Ensemble: TypeAlias = Literal["none", "transpose", "flips", "x8"]
"""Flips and rotations whose outputs a self-ensemble averages."""

TileSizes: TypeAlias = Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1)]
"""Tile sizes in pixels, whose results are averaged."""

FINE_QUALITY = 99
"""JPEGs of this quality and above are copied by default.

Restored by ``fbcnn_xs_x1`` and held to their files, all 26 held-out photographs gain at qualities
up to 98, there by 0.13 dB or more; at 99 and 100 the mean gain is 1.1 and 1.3 dB, but one loses.
"""

CELL = 0.5
"""Half the width of an interval, in quantisation steps: all that an encoder can have rounded."""

MAX_PIXELS = 200_000_000
"""Larger images are refused by default, since a damaged header can claim any size."""


class InferenceOptions(msgspec.Struct, kw_only=True, frozen=True):
    """Inference: keys of ``val`` and flags of ``basicsr restore``."""

    tile: Annotated[
        Annotated[int, Meta(ge=0)] | Literal["auto"] | TileSizes | None,
        Meta(
            description="Tile size in pixels, rounded up to the network's multiple; 0 or ~: whole"
            " images; auto: whole images if they fit into memory, else the largest tile that fits;"
            " a list, such as [288, 320, 352]: the image is restored with each of these sizes, and"
            " the results are averaged."
        ),
    ] = None
    overlap: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Tile overlap in pixels; ~: chosen by the network's receptive field."),
    ] = None
    tiling: Annotated[
        Literal["blended", "ntire2024"],
        Meta(description="How tiles are merged; ntire2024: padded and averaged like the winner's."),
    ] = "blended"
    self_ensemble: Annotated[
        Ensemble,
        Meta(description="Self-ensemble: average the outputs of flipped and transposed inputs."),
    ] = "none"
    grid: Annotated[
        Literal["auto", "none"],
        Meta(
            description="auto: extend images so that their JPEG blocks begin at the corner, if"
            " the pixels show blocks; none: leave them as they are."
        ),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Meta(
            description="Autocast precision; auto: bf16 if the device computes it fast, else fp32."
        ),
    ] = "fp32"
    consistency: Annotated[
        bool,
        Meta(
            description="Hold the results of JPEGs to the DCT coefficients of their files; needs"
            " the package jpeglib."
        ),
    ] = False
    cell: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="consistency: how far a coefficient may lie from the one in the file, in"
            " quantisation steps; below 0.5 the original may lie farther.",
        ),
    ] = CELL


@dataclass(frozen=True)
class RestoreOptions:
    """Which files are restored, and how the results are written."""

    quality: int = 95
    """Of JPEG and WebP output; 100 is lossless in WebP."""
    bits: int | None = None
    """8 or 16 bits per sample; None: those of the input, if the format can hold them."""
    strength: float | None = None
    """0 to 1, for networks that take it. Of networks that take a quality, such as FBCNN, how much
    they restore; None: from the quality of the file or of its pixels. Of CODiff, its share in the
    mean of result and input; None: 1.
    """
    overwrite: bool = False
    """Overwrite existing output."""
    force: bool = False
    """Also restore files that look clean: lossless files and fine JPEGs."""
    fine_quality: int = FINE_QUALITY
    """JPEGs whose tables have this quality or more are fine."""
    max_pixels: int = MAX_PIXELS
    """Larger images are refused."""
    strict: bool = False
    """Refuse truncated and damaged files instead of restoring what can be read."""
