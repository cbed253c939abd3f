"""Flags shared by data loader workers: unreadable images, and what was done already."""

import logging
import os

import torch

from cir_data.images.errors import UnreadableImage

_logger = logging.getLogger("basicsr")


class UnreadableImages:
    """Logs each unreadable image of a data set once, and counts them.

    The flags lie in shared memory, so the main process and the workers of all epochs share them.
    """

    def __init__(self, images: int) -> None:
        self._flags = torch.zeros(images, dtype=torch.bool)
        self._flags.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return int(self._flags.sum())

    def report(self, index: int, error: UnreadableImage) -> None:
        """Mark an image as unreadable; log it the first time."""
        if not self._flags[index]:
            self._flags[index] = True
            _logger.warning(
                "%s; another image takes its place (unreadable so far: %d of %d).",
                error,
                len(self),
                len(self._flags),
            )


class FirstTime:
    """Is true once, in one of all workers and processes of a run."""

    def __init__(self) -> None:
        self._done = torch.zeros(1, dtype=torch.bool)
        self._done.share_memory_()  # type: ignore[no-untyped-call]

    def now(self) -> bool:
        """Return whether this is the first call, in worker 0 of rank 0."""
        worker = torch.utils.data.get_worker_info()
        if self._done[0] or (worker and worker.id) or os.environ.get("RANK", "0") != "0":
            return False
        self._done[0] = True
        return True
