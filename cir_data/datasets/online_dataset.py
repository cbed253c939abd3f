"""The base of data sets that compress clean images while loading."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from cir_data.codecs.codec import CodecError
from cir_data.datasets.pair_dataset import PairDataset, extend
from cir_data.datasets.randomness import sample_generator
from cir_data.datasets.sample_fields import PairSample, make_pair, make_sample
from cir_data.degradations.degradation import Degradation
from cir_data.images.decoding import decode
from cir_data.images.geometry import Orientation, Pixels, Size, Window, size_of


class OnlineDataset(PairDataset):
    """Base of data sets that compress the clean image while loading.

    In training, an image that is smaller than a crop is padded by reflection before all other
    steps.
    """

    codec: str
    """Name and version of the codec."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Degradation:
        """Draw the degradation of an image."""

    def grid(self, degradation: Degradation) -> Size:
        """Return the grid on which crops start."""
        return 1, 1

    def facts(
        self,
        degradation: Degradation,
        window: Window,
        orientation: Orientation,
        lq: Pixels,
    ) -> Mapping[str, Any]:
        """Return further keys of a sample, besides the facts of the last compression.

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
        original = self.originals[index]
        image = extend(decode(original.read(), original.path), degradation.input_edge(1))
        window = Window(0, 0, *degradation.output_size(size_of(image)))
        return self._sample(index, image, degradation, window, Orientation())

    def crop(self, index: int, size: int, rng: np.random.Generator) -> PairSample:
        """Return the same crop of the compressed and the clean image; see :class:`PairDataset`."""
        original = self.originals[index]
        image = decode(original.read(), original.path)
        degradation = self.draw(rng)
        image = extend(image, degradation.input_edge(size))
        whole = degradation.output_size(size_of(image))
        window = Window.random(rng, whole, size, self.grid(degradation))
        return self._sample(index, image, degradation, window, self.random_orientation(rng))

    def _sample(
        self,
        index: int,
        image: Pixels,
        degradation: Degradation,
        window: Window,
        orientation: Orientation,
    ) -> PairSample:
        path, color = self.originals[index].path, self.options.color
        try:
            lq, gt = degradation.apply(image, color, window)
        except CodecError as error:
            raise CodecError(f"{path}: {error}") from error
        boundary = orientation.move_boundary(window.move_boundary((0, 0)), lq)
        record = degradation.record(grey=lq.ndim == 2)
        pair = make_pair(
            make_sample(orientation.apply(lq), path, record, boundary),
            orientation.apply(gt),
            path,
        )
        pair.update(self.facts(degradation, window, orientation, lq))  # type: ignore[typeddict-item]
        return pair
