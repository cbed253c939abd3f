"""The field's data sets (``--recipe``): where to get them, their folders and image counts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cir_data.images.decoding import decode
from cir_data.storage.dataroots import open_images
from cir_data.storage.image_source import StoredImage
from cir_host.errors import UserError


@dataclass(frozen=True)
class DatasetFolder:
    """One folder of a data set."""

    path: str
    """Relative to the folder that holds all data sets."""
    images: int | None
    """Number of images; None if it was not checked."""


@dataclass(frozen=True)
class KnownDataset:
    """A data set as its authors publish it."""

    about: str
    urls: tuple[str, ...]
    """As the repositories of its users cite them."""
    folders: tuple[DatasetFolder, ...]
    sub_images: bool = False
    """Whether it is a training set of large images, which are cut into sub-images."""
    pixels: str | None = None
    """SHA-256 by :func:`digest` of the copy on which this package's results were measured."""

    def describe(self) -> str:
        """Return where to get the data set and how to lay out its folders."""
        lines = [self.about, "from:", *(f"  {address}" for address in self.urls), "laid out as:"]
        for folder in self.folders:
            count = "" if folder.images is None else f"  ({folder.images:,} images)"
            lines.append(f"  {folder.path}/{count}")
        return "\n".join(lines)

    def open(self, datasets: Path) -> list[list[StoredImage]]:
        """Return a list of images for each folder.

        Raises:
            UserError: A folder is missing or does not hold the expected number of images.
        """
        opened = []
        for folder in self.folders:
            (images,) = open_images("--recipe", str(datasets / folder.path))
            if folder.images is not None and len(images) != folder.images:
                raise UserError(
                    f"{datasets / folder.path}: holds {len(images):,} images, not the"
                    f" {folder.images:,} of the data set; complete it, or omit --recipe"
                )
            opened.append(images)
        return opened

    def check_pixels(self, images: Sequence[StoredImage]) -> None:
        """Compare the pixels with those of the known copy.

        Raises:
            UserError: They differ, or an image cannot be read.
        """
        if self.pixels is not None and digest(images) != self.pixels:
            raise UserError(
                f"{images[0].source.root}: the pixels are not those of the known copy, so"
                " results would not be comparable; download it again, or omit --recipe"
            )


def digest(images: Sequence[StoredImage]) -> str:
    """Return the SHA-256 of all pixels, independent of file formats, names and order."""
    each = []
    for image in images:
        pixels = decode(image.read(), image.path)
        each.append(hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()


KNOWN_DATASETS = {
    "DF2K": KnownDataset(
        "DIV2K's training images and Flickr2K, the field's usual training set.",
        (
            "http://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
            "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar (its folder Flickr2K_HR)",
        ),
        (DatasetFolder("DF2K/DIV2K_train_HR", 800), DatasetFolder("DF2K/Flickr2K_HR", 2650)),
        sub_images=True,
    ),
    "LSDIR": KnownDataset(
        "Large training set for restoration.",
        ("https://data.vision.ee.ethz.ch/yawli/ (unpack all training shards into one folder)",),
        (DatasetFolder("LSDIR", 84_991),),
        sub_images=True,
    ),
    "DIV2K-valid": KnownDataset(
        "DIV2K's validation images.",
        ("http://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip",),
        (DatasetFolder("DIV2K/DIV2K_valid_HR", 100),),
    ),
    "LIVE1": KnownDataset(
        "The reference images of the LIVE quality database, in colour.",
        (
            "https://live.ece.utexas.edu/research/quality/subjective.htm (its folder refimgs)",
            "https://github.com/jiaxi-jiang/FBCNN (its folder testsets/LIVE1_color)",
        ),
        (DatasetFolder("LIVE1", 29),),
        pixels="d0c113b47d48a132737f6087cd9ce822e0a690a76a3904df22753cfe3befc46f",
    ),
    "Classic5": KnownDataset(
        "Five classic grey images.",
        ("https://github.com/jiaxi-jiang/FBCNN (its folder testsets/Classic5)",),
        (DatasetFolder("Classic5", 5),),
        pixels="841b70ed923137ad957c2774896e626ae3c39fc984020b7b1fe259a66f984c9b",
    ),
    "BSDS500": KnownDataset(
        "The test images of Berkeley's segmentation data set; they are JPEG files themselves.",
        ("http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",),
        (DatasetFolder("BSR/BSDS500/data/images/test", 200),),
    ),
    "ICB": KnownDataset(
        "The image compression benchmark's 8-bit RGB images; the count was not checked.",
        ("http://imagecompression.info/test_images/rgb8bit.zip",),
        (DatasetFolder("ICB", None),),
    ),
}
