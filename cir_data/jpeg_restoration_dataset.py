"""Pairs made from clean images alone: the compressed image is made while loading."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from basicsr.utils.registry import DATASET_REGISTRY

from cir_data import jpeg
from cir_data.color import convert
from cir_data.geometry import Window
from cir_data.image_io import decode
from cir_data.options import JPEGRestorationOptions
from cir_data.pair_dataset import PairDataset, extend
from cir_data.quality import Quality
from cir_data.sample import PairSample, make_pair, make_sample
from cir_host.registration import register


@register(DATASET_REGISTRY)
class JPEGRestorationDataset(PairDataset):
    """Clean images and their JPEGs, compressed by Pillow on the fly.

    A crop for training equals the same crop of the whole compressed image, bit for bit, so that the
    block grid lies in it as it does in a part of a real JPEG. ``lq_path`` is the path of the clean
    image.

    Args:
        opt: The section of the options file; :class:`JPEGRestorationOptions` lists the keys.

    Raises:
        OptionsError: A key or value that cannot be used.
        UserError: A folder, an LMDB or a listed image is not there.
    """

    options_type = JPEGRestorationOptions
    options: JPEGRestorationOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self.quality = Quality.from_option(self.options.quality)
        self.codec = jpeg.codec_name()

    def whole(self, index: int) -> PairSample:
        """Return a whole image at the fixed quality, the same bits each time."""
        original = self.originals[index]
        gt = convert(decode(original.read(), original.path), self.options.color)
        (quality,) = self.quality.values
        lq, compression = jpeg.compress(gt, quality)
        sample = make_sample(lq, original.path, compression, (0, 0))
        return make_pair(sample, gt, original.path)

    def crop(self, index: int, rng: np.random.Generator) -> PairSample:
        """Return a crop of the compressed image and of the clean one."""
        original = self.originals[index]
        image = extend(decode(original.read(), original.path), self.crop_size)
        window = Window.random(rng, image, self.crop_size)
        orientation = self.random_orientation(rng)
        region = jpeg.exact_region(window, image, grey=self.options.color != "rgb")
        clean = convert(region.cut(image), self.options.color)
        compressed, compression = jpeg.compress(clean, self.quality.draw(rng))
        inner = window.within(region)
        lq, gt = inner.cut(compressed), inner.cut(clean)
        boundary = orientation.move_boundary(window.move_boundary((0, 0)), lq)
        sample = make_sample(orientation.apply(lq), original.path, compression, boundary)
        return make_pair(sample, orientation.apply(gt), original.path)
