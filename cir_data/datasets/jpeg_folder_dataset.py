"""Compressed images without ground truth."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch.utils.data import Dataset

from cir_data.datasets.sample_fields import Sample, in_floats, make_sample
from cir_data.images.color import to_color
from cir_data.images.decoding import decode_compressed
from cir_data.options import JPEGFolderOptions
from cir_data.storage.dataroots import open_images
from cir_host.registration import register
from cir_host.typed_options import typed


@register("dataset")
class JPEGFolderDataset(Dataset[Sample]):
    """Whole compressed images to restore, without ground truth for metrics.

    ``quality`` and ``subsampling`` are read from the JPEG file, as in ``PairedJPEGDataset``.

    Args:
        opt: The section of the options file; :class:`JPEGFolderOptions` lists the keys.

    Raises:
        OptionsError: A key or value cannot be used.
        UserError: A folder, an LMDB or a listed image is missing.
    """

    options_type = JPEGFolderOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt  # BasicSR's validation reads the name here
        self.options = typed(opt, self.options_type, f"datasets.{opt.get('phase')}")
        roots = open_images("dataroot_lq", self.options.dataroot_lq, self.options.meta_info_file)
        self.compressed = list(chain.from_iterable(roots))

    def __len__(self) -> int:
        return len(self.compressed)

    def __getitem__(self, index: int) -> Sample:
        """Return a whole image.

        Raises:
            UserError: The file is missing or damaged.
        """
        image = self.compressed[index]
        lq = decode_compressed(image.read(), image.path)
        pixels = to_color(lq.pixels, self.options.color)
        sample = make_sample(pixels, image.path, lq.compression, lq.boundary)
        if self.options.color != "y":  # which is not the luma of JPEG
            sample["jpeg"] = bytes(lq.upright_jpeg)
        return in_floats(sample)
