"""What the data sets give: one image, or a pair, with the facts of its compression."""

from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from cir_data.images.compression import Compression
from cir_data.images.geometry import Boundary, Pixels


class Sample(TypedDict):
    """A compressed image. Every value passes through torch's ``default_collate``."""

    lq: Tensor
    """(C, H, W), float32 in [0, 1]; RGB where C is 3."""
    lq_path: str
    quality: int
    """On the scale of the codec, 1 to 100 for JPEG, or -1 where it is not known."""
    subsampling: str
    codec: str
    block_offset: Tensor
    """Row and column, 0 to 7, of the first 8 x 8 block boundary; int64."""


class PairSample(Sample):
    """A compressed image with its original."""

    gt: Tensor
    """(C, H, W), float32 in [0, 1]; RGB where C is 3."""
    gt_path: str


class UCSRSample(PairSample):
    """A small compressed image with its original of ``scale`` times its height and width."""

    codec_index: int
    """Of the codec among those that a network is told apart by, from 0."""


class DoubleFacts(TypedDict):
    """What a sample tells beside the rest where images may be compressed twice.

    ``quality``, ``subsampling`` and ``block_offset`` are those of the last compression.
    """

    first_quality: int
    """-1 where the image was compressed once."""
    first_subsampling: str
    """``none`` where the image was compressed once."""
    first_block_offset: Tensor
    """As ``block_offset``; (-1, -1) where there is no such grid, or one that was resized."""
    resize: float
    """The factor between the two compressions."""


def make_sample(lq: Pixels, lq_path: str, compression: Compression, boundary: Boundary) -> Sample:
    """Put a sample together; ``lq`` is (H, W) or (H, W, 3)."""
    return {
        "lq": to_tensor(lq),
        "lq_path": lq_path,
        "quality": compression.quality,
        "subsampling": compression.subsampling,
        "codec": compression.codec,
        "block_offset": torch.tensor(boundary),
    }


def make_pair(sample: Sample, gt: Pixels, gt_path: str) -> PairSample:
    """Add the original to a sample; ``gt`` is (H, W) or (H, W, 3)."""
    return {**sample, "gt": to_tensor(gt), "gt_path": gt_path}


def to_tensor(image: Pixels) -> Tensor:
    """Return an 8-bit image, (H, W) or (H, W, 3), as (C, H, W), float32 in [0, 1]."""
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    # reordering while the samples are bytes costs a third of reordering floats
    return torch.from_numpy(np.array(planes, order="C")).float().div_(255)
