"""Hold a restored picture to its JPEG file.

The file says in which interval each DCT coefficient of the original lay: half a quantisation step
on either side of the stored one. The pictures with such coefficients are a convex set. If the
original is one of them, the nearest to a restored picture is no farther from the original than the
restored picture was; if rounding by the encoder put the original outside, it is farther by no more
than the distance of the original from the set.
"""

import logging
import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cir_arch.layers.dct import BLOCK, LUMA, dct_matrix
from cir_data.images.jpeg_coefficients import Component, JpegCoefficients
from cir_data.images.jpeglib_files import require_jpeglib
from cir_host.errors import UserError
from cir_model.restoring.settings import CELL

SLACK = 0.0
"""Added to both ends of an interval, on a scale of 255.

Encoders round the colours to 8 bits before they transform them, which puts some of the original's
coefficients just outside their intervals: on the 26 held-out photographs, 0.3, 0.9, 2.7, 6.2 and
11.8 % of those of luma at quality 40, 75, 90, 95 and 98, by 0.2 in the mean, by less than 1.2 in 99
of 100 cases, and by 3.5 at most. A slack of 0 restores best all the same: the mean gain at quality
40, 90, 95 and 98 is 0.015, 0.13, 0.29 and 0.75 dB without slack, 0.013, 0.11, 0.23 and 0.61 dB with
0.5, 0.011, 0.09, 0.19 and 0.51 dB with 1 (``fbcnn_xs_x1``, ``benchmarks/consistency.py``).
"""

UNCORRECTED = "restored a little less exactly than usual, without correction by the file's data"
"""What it means for a picture that it cannot be held to its file."""

_MIDDLE = 128 / 255
"""What JPEG subtracts from luma before it transforms it."""

_BAND = 1 << 19
"""Pixels that are projected at once, so that large pictures need little memory."""

_CHROMA_WEIGHTS = (
    (-0.5 * LUMA[0] / (1 - LUMA[2]), -0.5 * LUMA[1] / (1 - LUMA[2]), 0.5),
    (0.5, -0.5 * LUMA[1] / (1 - LUMA[0]), -0.5 * LUMA[2] / (1 - LUMA[0])),
)
"""Weights of R, G and B in Cb and Cr, as in JFIF."""

_TO_RGB = (
    (1.0, 1.0, 1.0),
    (0.0, -2 * LUMA[2] * (1 - LUMA[2]) / LUMA[1], 2 * (1 - LUMA[2])),
    (2 * (1 - LUMA[0]), -2 * LUMA[0] * (1 - LUMA[0]) / LUMA[1], 0.0),
)
"""What a unit of Y, Cb and Cr adds to R, G and B."""

_logger = logging.getLogger("basicsr")


@cache
def can_hold() -> bool:
    """Return whether the coefficients of JPEG files can be read; if not, log why, once."""
    try:
        require_jpeglib()
    except UserError as error:
        _logger.warning("JPEGs are %s: %s", UNCORRECTED, error)
        return False
    return True


@torch.inference_mode()
def project(
    image: Tensor,
    coefficients: JpegCoefficients,
    cell: float = CELL,
    slack: float = SLACK,
    out: Tensor | None = None,
) -> Tensor:
    """Return the picture nearest to ``image`` among those that a JPEG file allows.

    Distances are those of YCbCr. Chroma that the file stores at a lower resolution is held to the
    file by its means over the pixels of a sample; the correction of a mean is added to all of them.
    Blocks that reach beyond the picture stay as they are, since what the encoder put there is not
    known. Of a grey image and a file with colours, or the other way round, only luma is held.

    Args:
        image: (1, 1 or 3, H, W) in [0, 1], grey or RGB, oriented as in the file, on any device.
        coefficients: Of the file, of the same size.
        cell: Half the width of the intervals in quantisation steps; less than 0.5 no longer
            promises that the original is among the pictures.
        slack: Added to both ends of the intervals, on a scale of 255.
        out: Where the result goes, such as ``image`` itself; None: a new tensor.

    Returns:
        The result, of the same shape, not clamped.

    Raises:
        UserError: The image has another size than the file.
    """
    if image.shape[2:] != (coefficients.height, coefficients.width):
        raise UserError(
            f"an image of {image.shape[-1]} x {image.shape[-2]} pixels is not that of the JPEG,"
            f" which has {coefficients.width} x {coefficients.height}"
        )
    image = image.clone() if out is None else out.copy_(image)
    period = BLOCK * math.lcm(*(part.pixels_down for part in coefficients.components))
    height = max(1, _BAND // (coefficients.width * period)) * period
    weights = torch.tensor((LUMA, *_CHROMA_WEIGHTS), device=image.device)
    to_rgb = torch.tensor(_TO_RGB, device=image.device)
    for top in range(0, coefficients.height, height):
        band = image[0, :, top : top + height]
        grey = len(band) == 1
        planes = band.clone() if grey else torch.tensordot(weights, band, 1)
        planes[0] -= _MIDDLE
        for plane, part in zip(planes, coefficients.components, strict=False):
            plane.copy_(_correction(plane, part, top, cell, slack))
        planes[len(coefficients.components) :] = 0
        band += planes if grey else torch.tensordot(to_rgb.T, planes, 1)
    return image


def _correction(plane: Tensor, part: Component, top: int, cell: float, slack: float) -> Tensor:
    """Return what brings a band of one plane into the intervals; zero for incomplete blocks.

    Args:
        plane: (H, W) of luma or chroma around 0; its first row is row ``top`` of the picture.
        part: The component of the file.
        top: A multiple of the height of a block in pixels.
        cell: In steps.
        slack: On a scale of 255.
    """
    down, across = part.pixels_down, part.pixels_across
    rows, columns = plane.shape[0] // (BLOCK * down), plane.shape[1] // (BLOCK * across)
    correction = torch.zeros_like(plane)
    if not rows or not columns:
        return correction
    inside = plane[: rows * BLOCK * down, : columns * BLOCK * across]
    samples = inside if down == across == 1 else F.avg_pool2d(inside[None], (down, across))[0]
    basis = dct_matrix().to(plane.device)
    found = basis @ samples.reshape(rows, BLOCK, -1)
    found = found.reshape(rows, BLOCK, columns, BLOCK) @ basis.T * 255
    first = top // (BLOCK * down)
    stored = torch.from_numpy(part.quantised[first : first + rows, :columns])
    middle = stored.to(plane.device).permute(0, 2, 1, 3).float()
    steps = torch.from_numpy(part.steps.astype(np.float32)).to(plane.device)[:, None]
    middle *= steps
    reach = steps * cell + slack
    wanted = torch.minimum(torch.maximum(found, middle - reach), middle + reach)
    change = wanted.sub_(found).div_(255)
    change = basis.T @ (change.reshape(-1, BLOCK) @ basis).reshape(rows, BLOCK, -1)
    change = change.reshape(rows * BLOCK, columns * BLOCK)
    if down > 1:
        change = change.repeat_interleave(down, 0)
    if across > 1:
        change = change.repeat_interleave(across, 1)
    correction[: rows * BLOCK * down, : columns * BLOCK * across] = change
    return correction
