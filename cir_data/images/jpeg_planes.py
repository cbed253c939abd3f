"""A JPEG file as the input of networks that restore from DCT coefficients, such as JDEC.

The layout is that of ``cir_arch.layers.jpeg_planes``: planes of the picture's size, luma in the
first one; Cb and Cr in the upper left quarter of each 16 x 16 square of the others, the
quantisation steps of luma and of chroma in the lower right quarter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cir_data.images.geometry import BLOCK
from cir_data.images.jpeg_coefficients import Component, JpegCoefficients, read_coefficients
from cir_host.errors import UserError

Planes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class JpegPlanes:
    """What a network gets of a JPEG file."""

    planes: Planes
    """(3, H, W), at least of the picture's size: multiples of 16."""
    height: int
    """Of the picture."""
    width: int
    warning: str = ""
    """What was changed to fit the layout; empty if nothing was."""


def read_planes(data: bytes) -> JpegPlanes:
    """Return the planes of a JPEG file.

    The network gets chroma at half the resolution (4:2:0). Chroma that the file stores at a higher
    one is reduced, by keeping the low frequencies of two neighbouring blocks. The chroma of a grey
    file is 0, and the steps of luma stand for those of chroma. Where the picture ends in the middle
    of a 16 x 16 square, the last block is mirrored.

    Args:
        data: The content of the file.

    Raises:
        UserError: The coefficients cannot be read, or :func:`planes_of` refuses them; the text
            says why, without the file's name.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (40, 24), "teal").save(file, "JPEG")
        >>> read_planes(file.getvalue()).planes.shape
        (3, 32, 48)
    """
    return planes_of(read_coefficients(data))


def planes_of(jpeg: JpegCoefficients) -> JpegPlanes:
    """Return the planes of a JPEG whose coefficients are read; see :func:`read_planes`.

    Raises:
        UserError: They are sampled in another way.
    """
    luma, *chroma = jpeg.components
    if (luma.pixels_down, luma.pixels_across) != (1, 1):
        raise UserError("its luma is stored at a lower resolution than the picture")
    y = _even(_even(_dequantised(luma, jpeg), 0), 1)
    colours = [_at_half_resolution(part, jpeg) for part in chroma]
    colours = colours or [np.zeros((y.shape[0] // 2, y.shape[1] // 2, BLOCK, BLOCK), y.dtype)] * 2
    steps = [luma.steps, (chroma or [luma])[0].steps]
    finer = any((part.pixels_down, part.pixels_across) != (2, 2) for part in chroma)
    warning = (
        "its chroma is reduced to half the resolution (4:2:0) for the network" if finer else ""
    )
    return JpegPlanes(join(y, colours, steps), jpeg.height, jpeg.width, warning)


def join(
    luma: Planes, chroma: Sequence[Planes], steps: Sequence[npt.NDArray[np.uint16] | Planes]
) -> Planes:
    """Lay blocks out as planes (3, H, W).

    Args:
        luma: (rows, columns, 8, 8), rows and columns even.
        chroma: Cb and Cr, (rows / 2, columns / 2, 8, 8) each.
        steps: Of luma and of chroma, (8, 8) each.
    """
    rows, columns = luma.shape[:2]
    squares = np.zeros((3, rows // 2, 2, BLOCK, columns // 2, 2, BLOCK), np.float32)
    squares[0] = luma.transpose(0, 2, 1, 3).reshape(squares[0].shape)
    for plane, blocks, table in zip(squares[1:], chroma, steps, strict=True):
        plane[:, 0, :, :, 0] = blocks.transpose(0, 2, 1, 3)
        plane[:, 1, :, :, 1] = table[:, None]
    return squares.reshape(3, rows * BLOCK, columns * BLOCK)


def _dequantised(part: Component, jpeg: JpegCoefficients) -> Planes:
    """Return the coefficients of a component, without blocks beyond the picture."""
    rows = -(-jpeg.height // (BLOCK * part.pixels_down))
    columns = -(-jpeg.width // (BLOCK * part.pixels_across))
    return part.quantised[:rows, :columns].astype(np.float32) * part.steps.astype(np.float32)


def _at_half_resolution(part: Component, jpeg: JpegCoefficients) -> Planes:
    blocks = _dequantised(part, jpeg)
    for axis, pixels in enumerate((part.pixels_down, part.pixels_across)):
        if pixels not in (1, 2):
            raise UserError(f"one sample of its chroma covers {pixels} pixels; at most 2 are known")
        if pixels == 1:
            blocks = _reduced(_even(blocks, axis), axis)
    return blocks


def _even(blocks: Planes, axis: int) -> Planes:
    """Mirror the last block along an axis (0 or 1) if their number is odd."""
    if blocks.shape[axis] % 2 == 0:
        return blocks
    signs = np.where(np.arange(BLOCK) % 2, -1, 1).astype(blocks.dtype)
    last = np.take(blocks, [-1], axis) * (signs[:, None] if axis == 0 else signs)
    return np.concatenate([blocks, last], axis)


def _reduced(blocks: Planes, axis: int) -> Planes:
    """Halve the resolution along an axis: the low half of the DCT of two neighbouring blocks."""
    last = np.moveaxis(blocks, axis + 2, -1)
    count = blocks.shape[axis]
    pairs = [last.take(np.arange(start, count, 2), axis) for start in (0, 1)]
    return np.moveaxis(np.concatenate(pairs, -1) @ _low_of_two().T, -1, axis + 2)


def _low_of_two() -> Planes:
    """Return the matrix (8, 16) from two blocks' coefficients to those of their reduced samples."""
    of_two, of_one = _dct(2 * BLOCK), _dct(BLOCK)
    change = of_two @ np.kron(np.eye(2), of_one).T
    return np.asarray(change[:BLOCK] / math.sqrt(2), np.float32)


def _dct(samples: int) -> npt.NDArray[np.float64]:
    """Return the orthonormal DCT-II, (frequency, sample)."""
    frequency, sample = np.mgrid[:samples, :samples]
    basis = np.cos((2 * sample + 1) * frequency * math.pi / (2 * samples)) * math.sqrt(2 / samples)
    basis[0] /= math.sqrt(2)
    return np.asarray(basis)
