"""All images of a data set, decoded once into memory that the data loader workers share."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cir_data.images.decoding import decode
from cir_data.images.errors import UnreadableImage
from cir_data.images.geometry import Pixels
from cir_data.storage.image_source import StoredImage
from cir_data.storage.stored_images import StoredImages
from cir_host.errors import UserError

_BLOCK_BYTES = 1 << 28
"""Images share blocks of memory, because each block keeps a file open."""

_logger = logging.getLogger("basicsr")


@dataclass
class _Pending:
    """Images that wait to be copied into a block."""

    indices: list[int] = field(default_factory=list)
    images: list[Pixels] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(image.nbytes for image in self.images)


class DecodedImages:
    """The images of a data set in shared memory: with fork and spawn, workers copy nothing.

    Args:
        images: The images.
        name: The name of the data set, for messages.

    Raises:
        UserError: A file does not exist, or there is too little shared memory.
    """

    def __init__(self, images: StoredImages, name: str) -> None:
        self._name = name
        self._blocks: list[Tensor] = []
        # block, offset, height, width and channels of each image; no channels if it is damaged
        self._places = np.zeros((len(images), 5), np.int64)
        pending = _Pending()
        # Pillow decodes without the interpreter lock, so threads use all cores
        with ThreadPoolExecutor() as threads:
            for index, image in enumerate(threads.map(_decoded, _each(images))):
                if image is None:
                    continue
                pending.indices.append(index)
                pending.images.append(image)
                if pending.size >= _BLOCK_BYTES:
                    self._store(pending)
                    pending = _Pending()
        if pending.images:
            self._store(pending)
        readable = int((self._places[:, 4] > 0).sum())
        _logger.info(
            "%s: %d of %d images are decoded and kept in memory: %.2f GB, shared by all workers.",
            name,
            readable,
            len(images),
            self.nbytes / 1e9,
        )

    @property
    def nbytes(self) -> int:
        """Size of all images in bytes."""
        return sum(block.numel() for block in self._blocks)

    def get(self, index: int) -> Pixels | None:
        """Return an image, (H, W) or (H, W, 3), read-only; None if it cannot be decoded."""
        block, offset, height, width, channels = self._places[index].tolist()
        if channels == 0:
            return None
        flat: Pixels = self._blocks[block].numpy()[offset : offset + height * width * channels]
        flat.flags.writeable = False
        return flat.reshape((height, width) if channels == 1 else (height, width, channels))

    def _store(self, pending: _Pending) -> None:
        size = pending.size
        try:
            block = _shared(size)
        except (RuntimeError, MemoryError) as error:
            raise UserError(
                f"{self._name}: cache: no shared memory for another {size / 1e9:.2f} GB of decoded"
                f" images after {self.nbytes / 1e9:.2f} GB; enlarge /dev/shm (Docker: --shm-size)"
                " or remove cache"
            ) from error
        target, offset = block.numpy(), 0
        for index, image in zip(pending.indices, pending.images, strict=True):
            height, width, channels = (*image.shape, 1)[:3]
            self._places[index] = len(self._blocks), offset, height, width, channels
            target[offset : offset + image.size] = image.reshape(-1)
            offset += image.size
        self._blocks.append(block)


def _shared(size: int) -> Tensor:
    block = torch.empty(size, dtype=torch.uint8)
    return block.share_memory_()  # type: ignore[no-untyped-call,no-any-return]


def _each(images: StoredImages) -> Iterator[StoredImage]:
    return (images[index] for index in range(len(images)))


def _decoded(image: StoredImage) -> Pixels | None:
    try:
        return decode(image.read(), image.path)
    except UnreadableImage:  # the data set names and counts it when it is drawn
        return None
