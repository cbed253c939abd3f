"""The keys of samples: one image or a pair, with the facts of its compression."""

from typing import TypedDict, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from cir_data.images.compression import Compression
from cir_data.images.geometry import Boundary, Pixels


class _File(TypedDict, total=False):
    jpeg: bytes
    """In validation and test: the JPEG file of ``lq``; empty if it is no JPEG, or if its EXIF turns
    it. Absent if the data set gives none."""
    coefficients: Tensor
    """In training, with the option ``coefficients``: float32 (3, H, W), the DCT coefficients of
    ``lq``, see :mod:`cir_data.images.jpeg_planes`."""


class Sample(_File):
    """A compressed image. Torch's ``default_collate`` accepts every value."""

    lq: Tensor
    """(C, H, W); RGB where C is 3. float32 in [0, 1], or with the option ``uint8`` 8 bits."""
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
    """Like ``lq``."""
    gt_path: str


class UCSRSample(PairSample):
    """A small compressed image with its ground truth, ``scale`` times as high and wide."""

    codec_index: int
    """Index of the codec in ``codec_names``, from 0."""


class DoubleFacts(TypedDict):
    """Further keys of a sample if images may be compressed twice.

    ``subsampling`` and ``block_offset`` are those of the last compression, and so is ``quality``
    unless the options tell the lowest.
    """

    first_quality: int
    """-1 if the image was compressed once."""
    first_subsampling: str
    """``none`` if the image was compressed once."""
    first_block_offset: Tensor
    """Like ``block_offset``; (-1, -1) if there is no such grid, or if it was resized."""
    resize: float
    """The resize factor between the two compressions."""


S = TypeVar("S", bound=Sample)


def make_sample(lq: Pixels, lq_path: str, compression: Compression, boundary: Boundary) -> Sample:
    """Create a sample of 8 bits; ``lq`` is (H, W) or (H, W, 3)."""
    return {
        "lq": to_tensor(lq),
        "lq_path": lq_path,
        "quality": compression.quality,
        "subsampling": compression.subsampling,
        "codec": compression.codec,
        "block_offset": torch.tensor(boundary),
    }


def make_pair(sample: Sample, gt: Pixels, gt_path: str) -> PairSample:
    """Add the ground truth to a sample; ``gt`` is (H, W) or (H, W, 3)."""
    return {**sample, "gt": to_tensor(gt), "gt_path": gt_path}


def to_tensor(image: Pixels) -> Tensor:
    """Convert an image, (H, W) or (H, W, 3), to a tensor (C, H, W) of 8 bits.

    Example:
        >>> to_tensor(np.full((4, 6, 3), 255, np.uint8)).shape
        torch.Size([3, 4, 6])
    """
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))


def in_floats(sample: S) -> S:
    """Replace the images of a sample, in place, by float32 in [0, 1]."""
    images = cast(dict[str, Tensor], sample)
    for key in ("lq", "gt"):
        if key in images:
            images[key] = images[key].float().div_(255)
    return sample
