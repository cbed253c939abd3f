"""The quantised DCT coefficients of a JPEG file, through the package ``jpeglib``."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cir_data.images.jpeg_stream import damage_of, parse
from cir_data.images.jpeglib_files import require_jpeglib, temporary_jpeg
from cir_host.errors import UserError

_READ_BY_JPEGLIB = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive frames with Huffman codes."""


@dataclass(frozen=True)
class Component:
    """One component of a JPEG file: luma, or one of the chroma components."""

    quantised: npt.NDArray[np.int16]
    """(rows, columns, 8, 8): for each block, the coefficients by vertical and horizontal frequency,
    in quantisation steps. Blocks that lie wholly beyond the picture may be included."""
    steps: npt.NDArray[np.uint16]
    """(8, 8), the quantisation steps."""
    pixels_down: int
    """How many rows of pixels one sample covers."""
    pixels_across: int


@dataclass(frozen=True)
class JpegCoefficients:
    """What a JPEG file states about its picture, in the orientation in which it is stored."""

    height: int
    width: int
    components: tuple[Component, ...]
    """Luma alone, or luma, Cb and Cr as in JFIF."""


def read_coefficients(data: bytes) -> JpegCoefficients:
    """Return the quantised coefficients of a JPEG file.

    ``jpeglib`` gets only intact files of the kinds that it knows, since its C library may end the
    process otherwise.

    Args:
        data: The content of the file.

    Raises:
        UserError: The coefficients cannot be read; the text says why, without the file's name.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (48, 32), "teal").save(file, "JPEG", subsampling="4:2:0")
        >>> luma, cb, cr = read_coefficients(file.getvalue()).components
        >>> luma.quantised.shape, cb.pixels_down
        ((4, 6, 8, 8), 2)
    """
    stream = parse(data)
    if stream.frame not in _READ_BY_JPEGLIB or stream.precision != 8:
        raise UserError("only 8-bit JPEGs with Huffman codes have readable coefficients")
    if damage_of(stream) is not None:
        raise UserError("the JPEG is damaged")
    library = require_jpeglib()
    with temporary_jpeg() as path:
        # of zeros behind the last block, libjpeg would print a warning; it assumes missing ones
        path.write_bytes(stream.without_metadata().without_zeros(0).data)
        try:
            jpeg = library.read_dct(str(path))
            space = jpeg.jpeg_color_space.name.removeprefix("JCS_")
            if space not in ("GRAYSCALE", "YCbCr"):
                raise UserError(f"its colours are stored as {space}, not as YCbCr or grey")
            planes = [jpeg.Y] if space == "GRAYSCALE" else [jpeg.Y, jpeg.Cb, jpeg.Cr]
            steps = [jpeg.get_component_qt(index) for index in range(len(planes))]
        except OSError as error:
            raise UserError(f"jpeglib cannot read its coefficients ({error})") from error
    sampling = np.asarray(jpeg.samp_factor)[: len(planes)]
    most = sampling.max(0)
    if (most % sampling).any():
        raise UserError("its samples do not cover whole numbers of pixels")
    components = tuple(
        Component(plane, step.astype(np.uint16), *(int(side) for side in most // own))
        for plane, step, own in zip(planes, steps, sampling, strict=True)
    )
    return JpegCoefficients(jpeg.height, jpeg.width, components)
