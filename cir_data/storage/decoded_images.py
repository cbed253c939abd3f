"""All images of a data set, decoded once, in memory that data loader workers share."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from cir_data.images.decoding import decode
from cir_data.images.errors import UnreadableImage
from cir_data.images.geometry import Pixels
from cir_data.storage.image_source import StoredImage

_logger = logging.getLogger("basicsr")


class DecodedImages:
    """Decoded images by index; those that are damaged are decoded again, which raises the error.

    One tensor holds all pixels: forked workers share it, and torch moves it to shared memory for
    others.

    Args:
        images: The images of a data set.
    """

    def __init__(self, images: Sequence[StoredImage]) -> None:
        self._images = images
        # Pillow decodes outside Python's lock
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            decoded = list(threads.map(_decoded, images))
        self._shapes = [None if image is None else image.shape for image in decoded]
        sizes = [0 if image is None else image.size for image in decoded]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._pixels = torch.empty(int(self._starts[-1]), dtype=torch.uint8)
        flat = self._pixels.numpy()
        for index, image in enumerate(decoded):
            if image is not None:
                flat[self._starts[index] : self._starts[index + 1]] = image.ravel()
                decoded[index] = None  # frees its memory
        _logger.info(
            "%d images decoded into memory, %.0f MB.",
            sum(shape is not None for shape in self._shapes),
            self._pixels.numel() / 1e6,
        )

    def __getitem__(self, index: int) -> Pixels:
        """Return an image, (H, W) grey or (H, W, 3) RGB.

        Raises:
            UnreadableImage: It is damaged.
        """
        shape = self._shapes[index]
        if shape is None:
            original = self._images[index]
            return decode(original.read(), original.path)
        pixels: Pixels = self._pixels.numpy()[self._starts[index] : self._starts[index + 1]]
        return pixels.reshape(shape)


def _decoded(image: StoredImage) -> Pixels | None:
    try:
        return decode(image.read(), image.path)
    except UnreadableImage:
        return None
