"""A picture read whole: pixels of 8 or 16 bits, alpha, and all that its file says beside them.

The rules, which differ from those of ``image_io`` where data sets need no more:

- Grey stays grey, 16 bits stay 16 bits (read by OpenCV; Pillow reduces colour to 8). Palettes
  become RGB, black and white becomes 0 and 255.
- Alpha is kept apart, also that of a palette or of a transparent colour.
- CMYK and YCCK become sRGB through the embedded profile, or by Pillow's formula where there is
  none, and the result is marked as sRGB. Lab becomes sRGB. All other profiles stay as they are.
- The picture is turned upright by its orientation, which EXIF and XMP then state as 1.
- A file of several frames is refused; the first picture of an MPO, which cameras write as JPEG, is
  taken.
- 32-bit and floating-point samples are refused: their range is not stated anywhere.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from cir_data.images.compression import UNKNOWN_QUALITY
from cir_data.images.errors import DECODING_ERRORS, UnreadableImage
from cir_data.images.geometry import Orientation
from cir_data.images.jpeg_facts import compression_of, equivalent_quality
from cir_data.images.metadata import Metadata, metadata_of, orientation_of

Samples: TypeAlias = npt.NDArray[Any]
"""(H, W) grey, or (H, W, 3) RGB, of ``uint8`` or ``uint16``."""

_LOSSLESS = {"PNG", "BMP", "DIB", "GIF", "PPM", "TGA", "PCX", "SGI"}
"""Formats without loss. TIFF and WebP have both kinds."""

_TIFF_COMPRESSION = 259
_TIFF_BITS = 258
_JPEG_IN_TIFF = {6, 7, 34892}


class TruncatedImage(UnreadableImage):
    """A file that ends before its picture does."""


@dataclass(frozen=True)
class FileFacts:
    """What a file's header tells, before anything is decoded."""

    format: str
    """Pillow's name, with ``JPEG`` for ``MPO``."""
    width: int
    height: int
    quality: int | None
    """JPEG quality, 1 to 100, by the file's own tables; None for other formats."""
    standard_tables: bool
    """Whether the tables are those of that quality, and not only nearest to them."""
    lossless: bool

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@dataclass(frozen=True)
class Picture:
    """A decoded file, upright."""

    samples: Samples
    alpha: Samples | None
    """(H, W), of the type of ``samples``."""
    metadata: Metadata
    warnings: tuple[str, ...] = ()
    """What the user should know, such as that the file is truncated."""


def examine(data: bytes, where: str) -> FileFacts:
    """Read the header of an image file.

    Args:
        data: The file's content.
        where: Its path, for messages.

    Raises:
        UnreadableImage: It is empty, no image, or holds several frames.
    """
    with _opened(data, where) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise UnreadableImage(f"{where}: holds {frames} frames or pages; save one as an image")
        quality, standard = jpeg_quality(image)
        return FileFacts(
            format="JPEG" if image.format == "MPO" else str(image.format),
            width=image.width,
            height=image.height,
            quality=quality,
            standard_tables=standard,
            lossless=_is_lossless(image, data),
        )


def read(data: bytes, where: str, *, strict: bool = False) -> Picture:
    """Decode an image file whole.

    Args:
        data: The file's content.
        where: Its path, for messages.
        strict: Refuse a truncated file instead of decoding it as far as it goes.

    Raises:
        TruncatedImage: It is truncated, and ``strict``.
        UnreadableImage: It is damaged, or its samples have no stated range.
    """
    with _opened(data, where) as image:
        metadata = metadata_of(image)
        orientation = orientation_of(image)
        notes: list[str] = []
        if _bits(image, data) == 16:
            samples, alpha = _decode_16_bits(data, where)
        else:
            _load(image, where, strict, notes)
            converted, profile = _to_plain_mode(image, metadata.icc, where, notes)
            metadata = replace(metadata, icc=profile)
            samples, alpha = _split(np.asarray(converted))
        turned = Orientation.upright(1 if image.format == "TIFF" else orientation)
        return Picture(
            np.ascontiguousarray(turned.apply(samples)),
            None if alpha is None else np.ascontiguousarray(turned.apply(alpha)),
            metadata.upright(),
            tuple(notes),
        )


def jpeg_quality(image: Image.Image) -> tuple[int | None, bool]:
    """Return the quality of an opened JPEG, and whether its tables are standard.

    For others than the standard tables it is that of :func:`equivalent_quality`.
    """
    if not isinstance(image, JpegImageFile) or not image.quantization:
        return None, False
    quality = compression_of(image).quality
    if quality != UNKNOWN_QUALITY:
        return quality, True
    return equivalent_quality(image), False


@cache
def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    if not data:
        raise UnreadableImage(f"{where}: the file is empty")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the caller knows the size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                yield image
    except DECODING_ERRORS as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no format that Pillow knows" if unknown else str(error) or type(error).__name__
        raise UnreadableImage(f"{where}: cannot be read as an image: {reason}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _load(image: Image.Image, where: str, strict: bool, notes: list[str]) -> None:
    try:
        image.load()
    except OSError as error:
        if strict:
            raise TruncatedImage(f"{where}: truncated or damaged: {error}") from error
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        notes.append(f"truncated or damaged ({error}); restored as far as it decodes")


def _is_lossless(image: Image.Image, data: bytes) -> bool:
    if image.format == "TIFF":
        tags: Any = image
        return tags.tag_v2.get(_TIFF_COMPRESSION, 1) not in _JPEG_IN_TIFF
    if image.format == "WEBP":
        return _holds_vp8l(data)
    return image.format in _LOSSLESS


def _holds_vp8l(data: bytes) -> bool:
    offset = 12
    while offset + 8 <= len(data):
        if data[offset : offset + 4] == b"VP8L":
            return True
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        offset += 8 + size + size % 2
    return False


def _bits(image: Image.Image, data: bytes) -> int:
    """Return the bits of a sample where they are 16, else 8 or what Pillow's mode means."""
    if image.mode.startswith("I;16"):
        return 16
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX"):
        tags: Any = image
        return int(np.max(tags.tag_v2.get(_TIFF_BITS, 8)))
    return 8


def _decode_16_bits(data: bytes, where: str) -> tuple[Samples, Samples | None]:
    try:
        decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    if decoded is None or decoded.dtype != np.uint16:
        raise UnreadableImage(f"{where}: a kind of 16-bit image that OpenCV cannot read")
    if decoded.ndim == 2:
        return decoded, None
    colour = decoded[..., 2::-1]
    if data[:4] == b"\x89PNG" and data[25] == 4:  # grey with alpha, which OpenCV spreads
        colour = decoded[..., 0]
    return colour, decoded[..., 3] if decoded.shape[2] == 4 else None


def _to_plain_mode(
    image: Image.Image, profile: bytes | None, where: str, notes: list[str]
) -> tuple[Image.Image, bytes | None]:
    """Return the image as L, LA, RGB or RGBA, with the profile that then holds."""
    mode = image.mode
    if mode in ("CMYK", "LAB"):
        return _to_srgb(image, profile, notes), srgb_profile()
    if mode in ("F", "I"):
        raise UnreadableImage(
            f"{where}: samples of 32 bits have no stated range; save it with 8 or 16 bits"
        )
    transparent = "transparency" in image.info
    plain = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGBA": "RGBA", "PA": "RGBA"}
    plain |= {"RGBa": "RGBA"}
    wanted = plain.get(mode, "RGB")
    if transparent and wanted in ("L", "RGB"):
        wanted += "A"
    return (image if mode == wanted else image.convert(wanted)), profile


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    elif profile is None:
        notes.append("CMYK without a profile; converted by formula")
        return image.convert("RGB")
    else:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        except OSError:
            notes.append("CMYK with a damaged profile; converted by formula")
            return image.convert("RGB")
    try:
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:
        notes.append(f"{image.mode} with a profile of another kind; converted by formula")
        return image.convert("RGB")
    assert converted is not None  # only a conversion in place gives nothing
    return converted


def _split(samples: Samples) -> tuple[Samples, Samples | None]:
    if samples.ndim == 2:
        return samples, None
    if samples.shape[2] == 3:
        return samples, None
    colour = samples[..., 0] if samples.shape[2] == 2 else samples[..., :3]
    return colour, samples[..., -1]
