"""Compressed super-resolution: clean images, downscaled and compressed by one of several codecs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cir_data.codecs.choice import make_codec, qualities_of
from cir_data.codecs.codec import Codec, CodecError
from cir_data.datasets.pair_dataset import PairDataset, extend
from cir_data.datasets.partners import partners
from cir_data.datasets.randomness import sample_generator
from cir_data.datasets.sample_fields import UCSRSample, make_pair, make_sample
from cir_data.degradations.bicubic import Reduce
from cir_data.degradations.degradation import Compress, Degradation
from cir_data.draws import Mixture
from cir_data.images.color import Color, to_color
from cir_data.images.compression import UNKNOWN_QUALITY, Compression
from cir_data.images.decoding import decode
from cir_data.images.geometry import Orientation, Pixels, Window, size_of
from cir_data.options import CodecEntry, UCSROptions
from cir_data.storage.dataroots import as_list, open_images
from cir_data.storage.image_source import StoredImage
from cir_data.storage.lmdb_source import LMDB_SUFFIX
from cir_data.storage.stored_images import StoredImages
from cir_host.errors import UserError
from cir_host.file_names import expanded
from cir_host.registration import register


@register("dataset")
class UCSRDataset(PairDataset):
    """Clean images, downscaled and compressed by one of several codecs.

    An image is cropped at bottom and right to a multiple of ``scale``, downscaled by MATLAB's
    bicubic filter, and compressed by a random codec at a random quality. Alternatively, the
    compressed small image is read from a folder. ``lq`` is ``scale`` times smaller than ``gt``;
    networks that get the codec as an input use ``codec_index``. With JPEG, a crop equals that of
    the whole compressed image bit for bit, and only a part is processed; other codecs compress the
    whole small image for each crop.

    Source: Li et al., UCIP, ECCV 2024, section 3.3.

    Args:
        opt: The section of the options file; :class:`UCSROptions` lists the keys.

    Raises:
        OptionsError: A key or value cannot be used.
        UserError: A folder, an LMDB, a listed image, a package or a program is missing.
    """

    options_type = UCSROptions
    options: UCSROptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        entries = self.options.codecs
        self._makers = [self._maker(i, entry) for i, entry in enumerate(entries)]
        self._choice = Mixture[int].weighted(
            [(i,) for i in range(len(entries))], [entry.weight for entry in entries]
        )
        self.codec = "; ".join(maker.version for maker in self._makers)

    def whole(self, index: int) -> UCSRSample:
        """Return a whole image, deterministically."""
        image = self._clean(index, self.options.scale)
        size = Reduce(self.options.scale).output_size(size_of(image))
        rng = sample_generator(0, index)
        return self._sample(index, rng, image, Window(0, 0, *size), Orientation())

    def crop(self, index: int, size: int, rng: np.random.Generator) -> UCSRSample:
        """Return a crop of the small compressed image, and the same part of the clean one."""
        image = self._clean(index, size)
        scale = self.options.scale
        window = Window.random(rng, Reduce(scale).output_size(size_of(image)), size // scale)
        return self._sample(index, rng, image, window, self.random_orientation(rng))

    def _clean(self, index: int, least: int) -> Pixels:
        image = extend(self.clean(index), least)
        height, width = (edge - edge % self.options.scale for edge in image.shape[:2])
        return image[:height, :width]

    def _sample(
        self,
        index: int,
        rng: np.random.Generator,
        image: Pixels,
        window: Window,
        orientation: Orientation,
    ) -> UCSRSample:
        chosen = self._choice.draw(rng)
        color = self.options.color
        lq, lq_path, record = self._makers[chosen].make(index, rng, image, color, window)
        gt = to_color(window.scaled(self.options.scale).cut(image), color)
        boundary = orientation.move_boundary(window.move_boundary((0, 0)), lq)
        sample = make_sample(orientation.apply(lq), lq_path, record, boundary)
        pair = make_pair(sample, orientation.apply(gt), self.originals[index].path)
        name = self.options.codecs[chosen].name
        return {**pair, "codec_index": self.options.codec_names.index(name)}

    def _maker(self, number: int, entry: CodecEntry) -> "_Maker":
        where = f"datasets.{self.options.phase}.codecs[{number}]"
        scale = self.options.scale
        if entry.quality is not None:
            assert entry.codec is not None  # checked by CodecEntry
            codec = make_codec(entry.codec, f"{where}.codec")
            qualities = qualities_of(entry.quality, codec, f"{where}.quality")
            return _Online(self.originals, scale, codec, qualities)
        assert entry.folder is not None
        assert entry.qualities is not None
        roots = len(as_list(self.options.dataroot_gt))
        if roots > 1:
            raise UserError(f"{where}.folder: needs a single dataroot_gt, not {roots}")
        folder = expanded(entry.folder)
        all_needed = self.options.meta_info_file is None
        return _Stored(self.originals, scale, entry.name, folder, entry.qualities, all_needed)


class _Maker(ABC):
    """Returns small compressed images of the originals."""

    version: str

    @abstractmethod
    def make(
        self, index: int, rng: np.random.Generator, image: Pixels, color: Color, window: Window
    ) -> tuple[Pixels, str, Compression]:
        """Return a part of the small image at a random quality, its path and its compression.

        Args:
            index: Index of the original.
            rng: The random generator of the sample.
            image: The original; its edges are multiples of the scale.
            color: The channels to return.
            window: The part, in the small image.
        """


class _Online(_Maker):
    def __init__(
        self, originals: StoredImages, scale: int, codec: Codec, qualities: Mixture[int]
    ) -> None:
        self._originals = originals
        self._reduce = Reduce(scale)
        self._codec = codec
        self._qualities = qualities
        self.version = codec.version

    def make(
        self, index: int, rng: np.random.Generator, image: Pixels, color: Color, window: Window
    ) -> tuple[Pixels, str, Compression]:
        compress = Compress(self._codec, self._qualities.draw(rng))
        degradation = Degradation([self._reduce, compress])
        path = self._originals[index].path
        try:
            lq, _ = degradation.apply(image, color, window)
        except CodecError as error:
            raise CodecError(f"{path}: {error}") from error
        return lq, path, degradation.record(grey=lq.ndim == 2)


class _Stored(_Maker):
    def __init__(
        self,
        originals: StoredImages,
        scale: int,
        name: str,
        folder: Path,
        qualities: list[int | str],
        all_needed: bool,
    ) -> None:
        self._originals = originals
        self._scale = scale
        self._qualities = qualities
        self._images = [
            StoredImages(partners(originals, _listed(folder / str(quality)), all_needed))
            for quality in qualities
        ]
        self._name = name
        self.version = f"{name}, as stored in {folder}"

    def make(
        self, index: int, rng: np.random.Generator, image: Pixels, color: Color, window: Window
    ) -> tuple[Pixels, str, Compression]:
        chosen = int(rng.integers(len(self._qualities)))
        stored, quality = self._images[chosen][index], self._qualities[chosen]
        small = decode(stored.read(), stored.path)
        wanted = Reduce(self._scale).output_size(size_of(image))
        # if the original was padded for its crop, the small image is padded, too
        extended = extend(small, min(wanted))
        if size_of(extended) != wanted:
            raise UserError(
                f"{stored.path} is {small.shape[1]} x {small.shape[0]} pixels, but"
                f" {self._originals[index].path} gives {wanted[1]} x {wanted[0]} at scale"
                f" {self._scale}"
            )
        number = quality if isinstance(quality, int) else UNKNOWN_QUALITY
        record = Compression(f"{self._name} {quality}", number, "unknown")
        return to_color(window.cut(extended), color), stored.path, record


def _listed(root: Path) -> list[StoredImage]:
    lmdb = root.with_name(root.name + LMDB_SUFFIX)
    (images,) = open_images("folder", str(lmdb if lmdb.is_dir() else root))
    return images
