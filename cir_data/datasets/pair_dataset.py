"""The base of data sets with ground truth: training crops, and handling of damaged files."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Dataset

from cir_data.datasets.contact_sheet import write_sheet
from cir_data.datasets.randomness import sample_generator
from cir_data.datasets.sample_fields import PairSample, in_floats
from cir_data.datasets.shared_flags import FirstTime, UnreadableImages
from cir_data.images.decoding import decode
from cir_data.images.errors import UnreadableImage
from cir_data.images.geometry import Orientation, Pixels
from cir_data.options import PairOptions
from cir_data.storage.dataroots import open_images
from cir_data.storage.decoded_images import DecodedImages
from cir_data.storage.stored_images import StoredImages
from cir_host.errors import UserError
from cir_host.file_names import short_name
from cir_host.sampler import DataPlan, SampleIndex, Stage, TrainingBatches
from cir_host.typed_options import typed

_MOST_TRIES = 100

_logger = logging.getLogger("basicsr")


class PairDataset(Dataset[PairSample], ABC):
    """Base of data sets of compressed images with their ground truth.

    In training, a sample is a random crop; in validation and test, a whole image.

    Args:
        opt: The section of the options file, with ``phase`` and ``manual_seed`` added.
    """

    options_type: ClassVar[type[PairOptions]]
    seeds_samples: ClassVar[bool] = True
    """Training samples depend only on the :class:`SampleIndex`, not on global random states."""

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt  # BasicSR's validation reads the name here
        self.options = typed(opt, self.options_type, f"datasets.{opt.get('phase')}")
        roots = open_images("dataroot_gt", self.options.dataroot_gt, self.options.meta_info_file)
        self.originals = StoredImages(chain.from_iterable(roots))
        self.unreadable = UnreadableImages(len(self.originals))
        cached = self.options.cache
        self._decoded = DecodedImages(self.originals, self.options.name) if cached else None
        self._sheet = FirstTime() if self.options.debug_pairs else None

    def __len__(self) -> int:
        return len(self.originals)

    def __getitem__(self, index: int) -> PairSample:
        """Return a crop in training, else a whole image.

        Raises:
            UserError: A file is missing, damaged or unreadable. In training, unless ``strict``, an
                unreadable file is replaced by another one instead.
        """
        if self._sheet is not None and self._sheet.now():
            self._write_sheet()
        sample = self._at(index)
        return sample if self.options.uint8 else in_floats(sample)

    def clean(self, index: int) -> Pixels:
        """Return an original, (H, W) grey or (H, W, 3) RGB, from memory with the option ``cache``.

        Raises:
            UnreadableImage: The image is damaged.
        """
        cached = self._decoded.get(index) if self._decoded else None
        if cached is not None:
            return cached
        original = self.originals[index]
        return decode(original.read(), original.path)

    def _at(self, index: int) -> PairSample:
        if self.options.phase != "train":
            return self.whole(int(index))
        size = index.crop_size if isinstance(index, SampleIndex) else None
        if size is None:
            size = self.options.gt_size
        assert size is not None  # checked by the options in training
        rng = sample_generator(self.options.manual_seed, index)
        chosen = int(index)
        tried: list[str] = []
        while len(tried) < _MOST_TRIES:
            try:
                return self.crop(chosen, size, rng)
            except UnreadableImage as error:
                if self.options.strict:
                    raise
                self.unreadable.report(chosen, error)
                tried.append(self.originals[chosen].path)
                chosen = int(rng.integers(len(self)))
        raise UserError(
            f"{self.options.name}: {_MOST_TRIES} images drawn in a row cannot be read; the last one"
            f" is {tried[-1]}"
        )

    def _write_sheet(self) -> None:
        options = self.options
        indices: Sequence[int] = range(min(options.debug_pairs, len(self)))
        if options.phase == "train":  # the first of a run
            length = ceil(len(self) * options.dataset_enlarge_ratio)
            plan = DataPlan(len(self), length, (Stage(1, options.debug_pairs),))
            (indices,) = TrainingBatches(plan, 1)
        name = re.sub(r"[^\w.-]+", "_", options.name)
        path = Path(short_name(f"pairs_{name}", ".png"))
        samples = [self._at(index) for index in indices]
        try:
            write_sheet(path, samples)
        except OSError as error:
            _logger.error("%s: cannot be written (%s).", path, error.strerror or error)

    @abstractmethod
    def whole(self, index: int) -> PairSample:
        """Return a whole image, deterministically, of 8 bits."""

    @abstractmethod
    def crop(self, index: int, size: int, rng: np.random.Generator) -> PairSample:
        """Return a random square crop in a random orientation, of 8 bits.

        Args:
            index: Which image.
            size: Edge of the crop of the original, in pixels.
            rng: All random numbers of the sample come from here.

        Raises:
            UnreadableImage: The image is damaged.
        """

    def random_orientation(self, rng: np.random.Generator) -> Orientation:
        """Draw the flips and the transposition that the options allow."""
        return Orientation.random(rng, self.options.use_hflip, self.options.use_rot)


def extend(image: Pixels, size: int) -> Pixels:
    """Pad an image at bottom and right by reflection until both edges have ``size`` pixels."""
    missing = [(0, max(0, size - edge)) for edge in image.shape[:2]]
    if not any(after for _, after in missing):
        return image
    return np.pad(image, missing + [(0, 0)] * (image.ndim - 2), mode="reflect")
