"""What the workers of a data loader know in common: unreadable images, what was done already."""

import logging
import os

import torch

from cir_data.images.errors import UnreadableImage

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


class FirstTime:
    """Says once, to one of all workers and processes of a run, that it is the first."""

    def __init__(self) -> None:
        self._done = torch.zeros(1, dtype=torch.bool)
        self._done.share_memory_()  # type: ignore[no-untyped-call]

    def now(self) -> bool:
        """Return whether this is the first call, in the process of rank 0."""
        worker = torch.utils.data.get_worker_info()
        if self._done[0] or (worker and worker.id) or os.environ.get("RANK", "0") != "0":
            return False
        self._done[0] = True
        return True
