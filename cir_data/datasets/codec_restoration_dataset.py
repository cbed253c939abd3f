"""Pairs made from clean images by any codec."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cir_data.codecs.choice import make_codec, qualities_of
from cir_data.datasets.online_dataset import OnlineDataset
from cir_data.degradations.degradation import Compress, Degradation
from cir_data.options import CodecRestorationOptions
from cir_host.registration import register


@register("dataset")
class CodecRestorationDataset(OnlineDataset):
    """Clean images, compressed on the fly by WebP, AVIF, HEVC, JPEG XL or a command.

    A training crop is cut from the whole compressed image, so small images train fastest; the
    option ``context`` compresses less, but is not exact. ``block_offset`` assumes a grid of 8
    pixels that starts at the image's corner. ``lq_path`` is the path of the clean image.

    Args:
        opt: The section of the options file; :class:`CodecRestorationOptions` lists the keys.

    Raises:
        OptionsError: A key or value cannot be used.
        UserError: A folder, an LMDB, a listed image, a package or a program is missing.
    """

    options_type = CodecRestorationOptions
    options: CodecRestorationOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        where = f"datasets.{self.options.phase}"
        self._codec = make_codec(self.options.codec, f"{where}.codec")
        self._quality = qualities_of(self.options.quality, self._codec, f"{where}.quality")
        self.codec = self._codec.version

    def draw(self, rng: np.random.Generator) -> Degradation:
        """Draw a quality."""
        context = self.options.context if self.options.phase == "train" else None
        return Degradation([Compress(self._codec, self._quality.draw(rng), context)])
