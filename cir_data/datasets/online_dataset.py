"""The base of data sets that compress clean images while loading."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from cir_data.codecs.codec import CodecError
from cir_data.codecs.jpeg import JPEG
from cir_data.datasets.pair_dataset import PairDataset, extend
from cir_data.datasets.randomness import sample_generator
from cir_data.datasets.sample_fields import PairSample, make_pair, make_sample
from cir_data.degradations.degradation import Degradation
from cir_data.images.color import Color, to_color
from cir_data.images.drawn_pages import FIRST_OF_TRAINING, LAST_SEED, drawn_page
from cir_data.images.geometry import Orientation, Pixels, Size, Window, size_of
from cir_data.options import OnlineOptions


class OnlineDataset(PairDataset):
    """Base of data sets that compress the clean image while loading.

    In training, an image that is smaller than a crop is padded by reflection before all other
    steps.
    """

    options: OnlineOptions
    codec: str
    """Name and version of the codec."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Degradation:
        """Draw the degradation of an image."""

    def grid(self, rng: np.random.Generator) -> Size:
        """Return the grid on which a crop starts."""
        return 1, 1

    def facts(
        self,
        degradation: Degradation,
        window: Window,
        orientation: Orientation,
        lq: Pixels,
    ) -> Mapping[str, Any]:
        """Return keys of a sample besides, or in place of, the facts of the last compression.

        Args:
            degradation: The degradation of the image.
            window: The window of the sample in the degraded image.
            orientation: The orientation of the sample.
            lq: The degraded window, before it is flipped or transposed.
        """
        return {}

    def whole(self, index: int) -> PairSample:
        """Return a whole image, deterministically."""
        degradation = self.draw(sample_generator(0, index))
        image = extend(self.clean(index), degradation.input_edge(1))
        window = Window(0, 0, *degradation.output_size(size_of(image)))
        path, color = self.originals[index].path, self.options.color
        sample = self._sample(path, image, color, degradation, window, Orientation())
        # only Pillow's: libjpeg 9 does not store the means of chroma
        if type(degradation.last.codec) is JPEG:
            sample["jpeg"] = degradation.file(image, color)
        return sample

    def crop(self, index: int, size: int, rng: np.random.Generator) -> PairSample:
        """Return the same crop of the compressed and the clean image; see :class:`PairDataset`."""
        options = self.options
        if happens(rng, options.drawn):
            seed = int(rng.integers(FIRST_OF_TRAINING, LAST_SEED))
            path, image = f"drawn page {seed}", drawn_page(seed, (2 * size, 2 * size))
        else:
            path, image = self.originals[index].path, self.clean(index)
        color: Color = "gray" if happens(rng, options.grey) else options.color
        degradation = self.draw(rng)
        image = extend(image, degradation.input_edge(size))
        whole = degradation.output_size(size_of(image))
        window = Window.random(rng, whole, size, self.grid(rng))
        orientation = self.random_orientation(rng)
        return self._sample(path, image, color, degradation, window, orientation)

    def _sample(
        self,
        path: str,
        image: Pixels,
        color: Color,
        degradation: Degradation,
        window: Window,
        orientation: Orientation,
    ) -> PairSample:
        try:
            lq, gt = degradation.apply(image, color, window)
        except CodecError as error:
            raise CodecError(f"{path}: {error}") from error
        boundary = orientation.move_boundary(window.move_boundary((0, 0)), lq)
        record = degradation.record(grey=lq.ndim == 2)
        shown = [to_color(orientation.apply(part), self.options.color) for part in (lq, gt)]
        pair = make_pair(make_sample(shown[0], path, record, boundary), shown[1], path)
        pair.update(self.facts(degradation, window, orientation, lq))  # type: ignore[typeddict-item]
        return pair


def happens(rng: np.random.Generator, share: float) -> bool:
    """Draw whether something happens that a share of the samples have.

    A share of 0 draws nothing, so that other draws do not depend on options that are not used.
    """
    return share > 0 and rng.random() < share
