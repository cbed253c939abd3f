"""The base of data sets that compress clean images while loading."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from cir_data.codecs.codec import CodecError
from cir_data.datasets.pair_dataset import PairDataset, extend
from cir_data.datasets.randomness import sample_generator
from cir_data.datasets.sample_fields import PairSample, make_pair, make_sample, to_bytes, to_tensor
from cir_data.degradations.degradation import Degradation
from cir_data.images.decoding import decode
from cir_data.images.color import Color, to_color
from cir_data.images.geometry import Orientation, Pixels, Size, Window, size_of
from cir_data.options import OnlineOptions
from cir_data.storage.decoded_images import DecodedImages


class OnlineDataset(PairDataset):
    """Base of data sets that compress the clean image while loading.

    In training, an image that is smaller than a crop is padded by reflection before all other
    steps.
    """

    options_type = OnlineOptions
    options: OnlineOptions

    codec: str
    """Name and version of the codec."""

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        training = self.options.phase == "train"
        self._cache = DecodedImages(self.originals) if self.options.cache and training else None
        self._convert = to_bytes if self.options.as_uint8 and training else to_tensor

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Degradation:
        """Draw the degradation of an image."""

    def grid(self, degradation: Degradation, rng: np.random.Generator) -> Size:
        """Return the grid on which a crop starts."""
        return 1, 1

    def clean(self, index: int, rng: np.random.Generator) -> Pixels:
        """Return the image of a training sample."""
        if self._cache is not None:
            return self._cache[index]
        original = self.originals[index]
        return decode(original.read(), original.path)

    def color(self, rng: np.random.Generator) -> Color:
        """Return the colour space in which a training sample is compressed."""
        return self.options.color

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
        return self._sample(
            index, image, degradation, window, Orientation(), self.options.color
        )

    def crop(self, index: int, size: int, rng: np.random.Generator) -> PairSample:
        """Return the same crop of the compressed and the clean image; see :class:`PairDataset`."""
        image = self.clean(index, rng)
        degradation = self.draw(rng)
        image = extend(image, degradation.input_edge(size))
        whole = degradation.output_size(size_of(image))
        window = Window.random(rng, whole, size, self.grid(degradation, rng))
        orientation = self.random_orientation(rng)
        return self._sample(index, image, degradation, window, orientation, self.color(rng))

    def _sample(
        self,
        index: int,
        image: Pixels,
        degradation: Degradation,
        window: Window,
        orientation: Orientation,
        color: Color,
    ) -> PairSample:
        path = self.originals[index].path
        try:
            lq, gt = degradation.apply(image, color, window)
        except CodecError as error:
            raise CodecError(f"{path}: {error}") from error
        boundary = orientation.move_boundary(window.move_boundary((0, 0)), lq)
        record = degradation.record(grey=lq.ndim == 2)
        images = orientation.apply(lq), orientation.apply(gt)
        if color != "rgb" and self.options.color == "rgb":
            images = to_color(images[0], "rgb"), to_color(images[1], "rgb")
        sample = make_sample(images[0], path, record, boundary, self._convert)
        pair = make_pair(sample, images[1], path, self._convert)
        pair.update(self.facts(degradation, window, orientation, lq))  # type: ignore[typeddict-item]
        return pair
