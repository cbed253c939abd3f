"""The keys of samples: one image or a pair, with the facts of its compression."""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from cir_data.images.compression import Compression
from cir_data.images.geometry import Boundary, Pixels


class Sample(TypedDict):
    """A compressed image. Torch's ``default_collate`` accepts every value."""

    lq: Tensor
    """(C, H, W), float32 in [0, 1], or uint8 with ``as_uint8``; RGB where C is 3."""
    lq_path: str
    quality: int
    """On the scale of the codec, 1 to 100 for JPEG; -1 if unknown."""
    subsampling: str
    codec: str
    block_offset: Tensor
    """Row and column, 0 to 7, of the first 8 x 8 block boundary; int64."""


class PairSample(Sample):
    """A compressed image with its ground truth."""

    gt: Tensor
    """(C, H, W), like ``lq``."""
    gt_path: str


class UCSRSample(PairSample):
    """A small compressed image with its ground truth, ``scale`` times as high and wide."""

    codec_index: int
    """Index of the codec in ``codec_names``, from 0."""


class DoubleFacts(TypedDict):
    """Further keys of a sample if images may be compressed twice.

    ``quality``, ``subsampling`` and ``block_offset`` are those of the last compression.
    """

    first_quality: int
    """-1 if the image was compressed once."""
    first_subsampling: str
    """``none`` if the image was compressed once."""
    first_block_offset: Tensor
    """Like ``block_offset``; (-1, -1) if there is no such grid, or if it was resized."""
    resize: float
    """The resize factor between the two compressions."""


def to_bytes(image: Pixels) -> Tensor:
    """Convert an 8-bit image, (H, W) or (H, W, 3), to (C, H, W), uint8."""
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))


def to_tensor(image: Pixels) -> Tensor:
    """Convert an 8-bit image, (H, W) or (H, W, 3), to (C, H, W), float32 in [0, 1].

    Example:
        >>> to_tensor(np.full((4, 6, 3), 255, np.uint8))[:, 0, 0]
        tensor([1., 1., 1.])
    """
    # transposing bytes takes a third of the time of transposing floats
    return to_bytes(image).float().div_(255)


def make_sample(
    lq: Pixels,
    lq_path: str,
    compression: Compression,
    boundary: Boundary,
    convert: Callable[[Pixels], Tensor] = to_tensor,
) -> Sample:
    """Create a sample; ``lq`` is (H, W) or (H, W, 3)."""
    return {
        "lq": convert(lq),
        "lq_path": lq_path,
        "quality": compression.quality,
        "subsampling": compression.subsampling,
        "codec": compression.codec,
        "block_offset": torch.tensor(boundary),
    }


def make_pair(
    sample: Sample, gt: Pixels, gt_path: str, convert: Callable[[Pixels], Tensor] = to_tensor
) -> PairSample:
    """Add the ground truth to a sample; ``gt`` is (H, W) or (H, W, 3)."""
    return {**sample, "gt": convert(gt), "gt_path": gt_path}
