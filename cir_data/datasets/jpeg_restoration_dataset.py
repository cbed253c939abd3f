"""Pairs made from clean images, which are compressed as JPEG while loading."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cir_data.codecs.jpeg import LARGEST_UNIT
from cir_data.datasets.online_dataset import OnlineDataset, happens
from cir_data.datasets.sample_fields import DoubleFacts, PairSample
from cir_data.degradations.degradation import Degradation
from cir_data.degradations.jpeg_degradation import (
    NO_GRID,
    JPEGDraws,
    first_compression,
    first_grid,
    told_quality,
)
from cir_data.images.color import Color
from cir_data.images.geometry import Orientation, Pixels, Size, Window
from cir_data.images.jpeg_planes import read_planes
from cir_data.images.jpeglib_files import require_jpeglib
from cir_data.options import JPEGRestorationOptions
from cir_host.errors import UserError
from cir_host.registration import register


@register("dataset")
class JPEGRestorationDataset(OnlineDataset):
    """Clean images and their JPEGs, compressed on the fly, once or twice.

    A training crop equals the same crop of the whole compressed image bit for bit, so its block
    grid lies as in a part of a real JPEG. ``lq_path`` is the path of the clean image. With the
    option ``double``, samples also have the keys of
    :class:`cir_data.datasets.sample_fields.DoubleFacts`. In training, shares of the crops can be
    grey, compressed by other codecs, not compressed, or parts of drawn pages.

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
        if self.options.coefficients:
            require_jpeglib()
        self._draws = JPEGDraws(self.options, f"datasets.{self.options.phase}")
        self.codec = self._draws.version

    def draw(self, rng: np.random.Generator) -> Degradation:
        """Draw one or two compressions, and the steps between them."""
        return self._draws.draw(rng)

    def grid(self, rng: np.random.Generator) -> Size:
        """Return the grid on which a crop starts; see the option ``align``."""
        align = self.options.align
        share = {"none": 0.0, "mcu": 1.0}[align] if isinstance(align, str) else align.mcu
        aligned = share == 1 or happens(rng, share)
        return (LARGEST_UNIT, LARGEST_UNIT) if aligned else (1, 1)

    def _sample(
        self,
        path: str,
        image: Pixels,
        color: Color,
        degradation: Degradation,
        window: Window,
        orientation: Orientation,
    ) -> PairSample:
        """Add the coefficients, if the options ask for them.

        Raises:
            UserError: The size of the crop, of a stage of the training, is no multiple of 16.
        """
        sample = super()._sample(path, image, color, degradation, window, orientation)
        if self.options.coefficients:
            planes = read_planes(degradation.file(image, color, window)).planes
            if planes.shape[1:] != (window.height, window.width):
                raise UserError(
                    f"{self.options.name}: coefficients need crops whose edge is a multiple of"
                    f" {LARGEST_UNIT}, not {window.height}"
                )
            sample["coefficients"] = torch.from_numpy(planes)
        return sample

    def facts(
        self, degradation: Degradation, window: Window, orientation: Orientation, lq: Pixels
    ) -> Mapping[str, Any]:
        """Return the quality that the options tell, and the draws of the first compression."""
        double = self.options.double
        told = told_quality(degradation, lowest=double is not None and double.tell == "lowest")
        if double is None:
            return {"quality": told}
        quality, subsampling, factor = first_compression(degradation)
        boundary = first_grid(degradation, window)
        if boundary != NO_GRID:
            boundary = orientation.move_boundary(boundary, lq)
        first = DoubleFacts(
            first_quality=quality,
            first_subsampling=subsampling if lq.ndim == 3 or quality < 0 else "4:0:0",
            first_block_offset=torch.tensor(boundary),
            resize=factor,
        )
        return {**first, "quality": told}
