"""Pairs made from clean images, which are compressed as JPEG while loading."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cir_data.codecs.jpeg import JPEG
from cir_data.datasets.online_dataset import OnlineDataset
from cir_data.datasets.sample_fields import DoubleFacts
from cir_data.degradations.degradation import Degradation
from cir_data.degradations.jpeg_degradation import NO_GRID, JPEGDraws, first_compression, first_grid
from cir_data.images.color import Color
from cir_data.images.drawn_pages import TRAINING_PAGES, drawn_page
from cir_data.images.geometry import Orientation, Pixels, Size, Window
from cir_data.options import AlignedShare, JPEGRestorationOptions
from cir_host.registration import register

_MACROBLOCK: Size = (16, 16)
"""The grid of codecs other than JPEG."""


@register("dataset")
class JPEGRestorationDataset(OnlineDataset):
    """Clean images and their JPEGs, compressed on the fly, once or twice.

    A training crop equals the same crop of the whole compressed image bit for bit, so its block
    grid lies as in a part of a real JPEG. ``lq_path`` is the path of the clean image. With the
    option ``double``, samples also have the keys of
    :class:`cir_data.datasets.sample_fields.DoubleFacts`.

    Args:
        opt: The section of the options file; :class:`JPEGRestorationOptions` lists the keys.

    Raises:
        OptionsError: A key or value cannot be used.
        UserError: A folder, an LMDB, a listed image or a package is missing.
    """

    options_type = JPEGRestorationOptions
    options: JPEGRestorationOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self._draws = JPEGDraws(self.options, f"datasets.{self.options.phase}")
        self.codec = self._draws.version

    def draw(self, rng: np.random.Generator) -> Degradation:
        """Draw one or two compressions, and the steps between them."""
        return self._draws.draw(rng)

    def grid(self, degradation: Degradation, rng: np.random.Generator) -> Size:
        """Return the grid on which a crop starts: that of the last JPEG, or any pixel."""
        align = self.options.align
        share = align.mcu if isinstance(align, AlignedShare) else float(align == "mcu")
        if not share or (share < 1 and rng.random() >= share):
            return 1, 1
        codec = degradation.last.codec
        if not isinstance(codec, JPEG):
            return _MACROBLOCK
        return codec.unit(grey=self.options.color != "rgb")

    def clean(self, index: int, rng: np.random.Generator) -> Pixels:
        """Return the image, or a drawn page."""
        share = self.options.page_share
        if share and rng.random() < share:
            return drawn_page(int(rng.integers(TRAINING_PAGES)))
        return super().clean(index, rng)

    def color(self, rng: np.random.Generator) -> Color:
        """Return the colour space of a training sample: that of the options, or grey."""
        share = self.options.grey_share
        return "gray" if share and rng.random() < share else self.options.color

    def facts(
        self, degradation: Degradation, window: Window, orientation: Orientation, lq: Pixels
    ) -> Mapping[str, Any]:
        """Return the draws of the first compression, if the options have one."""
        if self.options.double is None:
            return {}
        quality, subsampling, factor = first_compression(degradation)
        boundary = first_grid(degradation, window)
        if boundary != NO_GRID:
            boundary = orientation.move_boundary(boundary, lq)
        return DoubleFacts(
            first_quality=quality,
            first_subsampling=subsampling if lq.ndim == 3 or quality < 0 else "4:0:0",
            first_block_offset=torch.tensor(boundary),
            resize=factor,
        )
