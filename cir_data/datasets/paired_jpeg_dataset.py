"""Pairs from disk: compressed files and their ground truth."""

from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from cir_data.datasets.pair_dataset import PairDataset, extend
from cir_data.datasets.partners import partners
from cir_data.datasets.sample_fields import PairSample, make_pair, make_sample
from cir_data.images.color import to_color
from cir_data.images.compression import Compression
from cir_data.images.decoding import CompressedImage, decode_compressed
from cir_data.images.geometry import Boundary, Pixels, Window
from cir_data.options import PairedJPEGOptions
from cir_data.storage.dataroots import open_images
from cir_data.storage.stored_images import StoredImages
from cir_host.errors import UserError
from cir_host.registration import register


@register("dataset")
class PairedJPEGDataset(PairDataset):
    """Compressed files and their originals, matched by path without extension.

    ``quality`` and ``subsampling`` are read from the JPEG file; the quality is -1 if its tables are
    not standard, or if the file is no JPEG. ``block_offset`` assumes that the blocks start at the
    file's first pixel, as in every JPEG. If an image is padded to ``gt_size``, the grid does not
    continue in the padding, which contains reflected pixels.

    Args:
        opt: The section of the options file; :class:`PairedJPEGOptions` lists the keys.

    Raises:
        OptionsError: A key or value cannot be used.
        UserError: A folder, an LMDB, a listed image or one of a pair is missing.
    """

    options_type = PairedJPEGOptions
    options: PairedJPEGOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        roots_gt = (list(images) for _, images in groupby(self.originals, attrgetter("source")))
        roots_lq = open_images("dataroot_lq", self.options.dataroot_lq)
        all_needed = self.options.meta_info_file is None
        self.compressed = StoredImages(
            partner
            for originals, compressed in zip(roots_gt, roots_lq, strict=True)
            for partner in partners(originals, compressed, all_needed)
        )

    def whole(self, index: int) -> PairSample:
        """Return a pair of whole images."""
        gt, lq = self._read(index)
        sample = self._sample(index, gt, lq.pixels, lq.compression, lq.boundary)
        if self.options.color != "y":  # which is not the luma of JPEG
            sample["jpeg"] = bytes(lq.upright_jpeg)
        return sample

    def crop(self, index: int, size: int, rng: np.random.Generator) -> PairSample:
        """Return the same crop of both images."""
        gt, lq = self._read(index)
        both = [extend(image, size) for image in (gt, lq.pixels)]
        window = Window.random(rng, both[0].shape[:2], size)
        orientation = self.random_orientation(rng)
        crops = [window.cut(image) for image in both]
        boundary = orientation.move_boundary(window.move_boundary(lq.boundary), crops[0])
        gt_crop, lq_crop = (orientation.apply(crop) for crop in crops)
        return self._sample(index, gt_crop, lq_crop, lq.compression, boundary)

    def _read(self, index: int) -> tuple[Pixels, CompressedImage]:
        original, compressed = self.originals[index], self.compressed[index]
        gt = self.clean(index)
        lq = decode_compressed(compressed.read(), compressed.path)
        if gt.shape[:2] != lq.pixels.shape[:2]:
            gt_size, lq_size = (f"{i.shape[1]} x {i.shape[0]}" for i in (gt, lq.pixels))
            raise UserError(
                f"{original.path} is {gt_size} pixels, but {compressed.path} is {lq_size};"
                " the two images of a pair must have the same size"
            )
        return gt, lq

    def _sample(
        self, index: int, gt: Pixels, lq: Pixels, compression: Compression, boundary: Boundary
    ) -> PairSample:
        gt, lq = (to_color(image, self.options.color) for image in (gt, lq))
        sample = make_sample(lq, self.compressed[index].path, compression, boundary)
        return make_pair(sample, gt, self.originals[index].path)
