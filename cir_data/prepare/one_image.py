"""What becomes of one source image: it is skipped, or cut into sub-images and encoded."""

import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image

from cir_data.images import raw_pixels
from cir_data.images.decoding import add_reader, decode
from cir_data.images.errors import DECODING_ERRORS
from cir_data.images.geometry import Pixels, Window
from cir_data.images.jpeg_facts import equivalent_quality_of_file
from cir_data.prepare.sub_images import sub_windows
from cir_data.storage.image_source import StoredImage
from cir_host.errors import UserError


@dataclass(frozen=True)
class Settings:
    """What becomes of each image."""

    store: Literal["png", "raw"] = "png"
    size: int | None = None
    """Edge of the sub-images in pixels; None keeps images whole."""
    step: int = 0
    threshold: int = 0
    min_jpeg_quality: int | None = None
    """JPEG files of a lower quality, judged by their tables, are skipped."""

    def windows(self, height: int, width: int) -> list[Window]:
        """Return the sub-images of an image, or one window of the whole image."""
        if self.size is None:
            return [Window(0, 0, height, width)]
        return sub_windows(height, width, self.size, self.step, self.threshold)

    def key(self, key: str, number: int) -> str:
        """Return the key of an image's sub-image, counted from 0."""
        return key if self.size is None else f"{key}_s{number + 1:03d}"

    def encode(self, image: Pixels) -> bytes:
        """Return the bytes that are stored of an image."""
        return raw_pixels.pack(image) if self.store == "raw" else _png(image)


class EncodedImage(NamedTuple):
    """An image or sub-image, ready to be stored."""

    key: str
    shape: tuple[int, int, int]
    """Height, width, channels."""
    data: bytes


@dataclass(frozen=True)
class PreparedImage:
    """What became of one source image."""

    entries: tuple[EncodedImage, ...] = ()
    coarse: str = ""
    """Why it was skipped as a JPEG of low quality."""
    unreadable: str = ""


def prepare_image(job: tuple[StoredImage, str], settings: Settings) -> PreparedImage:
    """Read an image with its key, then skip it, or cut and encode it. Runs in a worker process."""
    image, key = job
    try:
        data = image.read()
        if settings.min_jpeg_quality is not None:
            quality = equivalent_quality_of_file(data)
            if quality is not None and quality < settings.min_jpeg_quality:
                return PreparedImage(coarse=f"{image.path}: JPEG of quality {quality}")
        pixels = decode(data, image.path)
    except UserError as error:
        return PreparedImage(unreadable=str(error))
    entries = []
    for number, window in enumerate(settings.windows(*pixels.shape[:2])):
        part = np.ascontiguousarray(window.cut(pixels))
        shape = (*part.shape, 1)[:3]
        entries.append(EncodedImage(settings.key(key, number), shape, settings.encode(part)))
    return PreparedImage(tuple(entries))


def shape_of(image: StoredImage) -> tuple[int, int, int] | str:
    """Return height, width and channels from an image's header, or why it cannot be read."""
    try:
        data = image.read()
        if raw_pixels.is_raw(data):
            return (*decode(data, image.path).shape, 1)[:3]
        add_reader(data, image.path)
        with Image.open(io.BytesIO(data)) as opened:
            grey = opened.mode in ("1", "L", "LA") or opened.mode.startswith("I")
            return opened.height, opened.width, 1 if grey else 3
    except UserError as error:
        return str(error)
    except DECODING_ERRORS as error:
        return f"{image.path}: cannot be read as an image: {error or type(error).__name__}"


def _png(image: Pixels) -> bytes:
    # OpenCV's default filter and level give files 8 % larger than Pillow's level 1, in half the
    # time, and they decode in 0.7 of the time
    done, data = cv2.imencode(".png", image if image.ndim == 2 else image[..., ::-1])
    assert done
    return bytes(data)
