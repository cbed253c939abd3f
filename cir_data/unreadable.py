"""Counting the images that cannot be decoded, over all workers of a data loader."""

import logging

import torch

from cir_data.image_io import UnreadableImage

_logger = logging.getLogger("basicsr")


class UnreadableImages:
    """Names each unreadable image of a data set once and counts them.

    The marks lie in shared memory, so that the workers of all epochs and the main process see the
    same ones.
    """

    def __init__(self, images: int) -> None:
        self._marks = torch.zeros(images, dtype=torch.bool)
        self._marks.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return int(self._marks.sum())

    def report(self, index: int, error: UnreadableImage) -> None:
        """Mark an image; log it if it had no mark."""
        if not self._marks[index]:
            self._marks[index] = True
            _logger.warning(
                "%s; another image takes its place (unreadable so far: %d of %d).",
                error,
                len(self),
                len(self._marks),
            )
