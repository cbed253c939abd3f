"""The field's data sets: where they are had, how their folders lie, how many images they hold."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cir_data.images.decoding import decode
from cir_data.storage.sources import StoredImage, open_images
from cir_host.errors import UserError


@dataclass(frozen=True)
class Part:
    """One folder of a data set."""

    folder: str
    """Below the folder that holds all data sets."""
    images: int | None
    """How many there are; None where that was not checked."""


@dataclass(frozen=True)
class Recipe:
    """A data set as its authors publish it."""

    about: str
    where: tuple[str, ...]
    """Web addresses, as its users' repositories cite them."""
    parts: tuple[Part, ...]
    sub_images: bool = False
    """Whether it is a training set of large images, which is cut up."""
    pixels: str | None = None
    """SHA-256 by :func:`digest` of the copy with which this package's figures were measured."""

    def describe(self) -> str:
        """Return where the data set is had and how it has to lie."""
        lines = [self.about, "from:", *(f"  {address}" for address in self.where), "to lie as:"]
        for part in self.parts:
            count = "" if part.images is None else f"  ({part.images:,} images)"
            lines.append(f"  {part.folder}/{count}")
        return "\n".join(lines)

    def open(self, datasets: Path) -> list[list[StoredImage]]:
        """List the images, a list for each part.

        Raises:
            UserError: A folder is missing or holds another number of images.
        """
        opened = []
        for part in self.parts:
            (images,) = open_images("--recipe", str(datasets / part.folder))
            if part.images is not None and len(images) != part.images:
                raise UserError(
                    f"{datasets / part.folder}: holds {len(images):,} images, not the"
                    f" {part.images:,} of the data set; complete it, or prepare it without --recipe"
                )
            opened.append(images)
        return opened

    def check_pixels(self, images: Sequence[StoredImage]) -> None:
        """Compare the pixels with those that are known.

        Raises:
            UserError: They differ, or an image cannot be read.
        """
        if self.pixels is not None and digest(images) != self.pixels:
            raise UserError(
                f"{images[0].source.root}: the pixels are not those of the known copy, so that"
                " figures would not be comparable; get it anew, or prepare it without --recipe"
            )


def digest(images: Sequence[StoredImage]) -> str:
    """Return the SHA-256 over all pixels, whatever the files' format, names and order are."""
    each = []
    for image in images:
        pixels = decode(image.read(), image.path)
        each.append(hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()


RECIPES = {
    "DF2K": Recipe(
        "DIV2K's training images and Flickr2K, the field's usual training set.",
        (
            "http://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
            "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar (its folder Flickr2K_HR)",
        ),
        (Part("DF2K/DIV2K_train_HR", 800), Part("DF2K/Flickr2K_HR", 2650)),
        sub_images=True,
    ),
    "LSDIR": Recipe(
        "Large training set for restoration.",
        ("https://data.vision.ee.ethz.ch/yawli/ (unpack all training shards into one folder)",),
        (Part("LSDIR", 84_991),),
        sub_images=True,
    ),
    "DIV2K-valid": Recipe(
        "DIV2K's validation images.",
        ("http://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip",),
        (Part("DIV2K/DIV2K_valid_HR", 100),),
    ),
    "LIVE1": Recipe(
        "The reference images of the LIVE quality database, in colour.",
        (
            "https://live.ece.utexas.edu/research/quality/subjective.htm (its folder refimgs)",
            "https://github.com/jiaxi-jiang/FBCNN (its folder testsets/LIVE1_color)",
        ),
        (Part("LIVE1", 29),),
        pixels="d0c113b47d48a132737f6087cd9ce822e0a690a76a3904df22753cfe3befc46f",
    ),
    "Classic5": Recipe(
        "Five classic grey images.",
        ("https://github.com/jiaxi-jiang/FBCNN (its folder testsets/Classic5)",),
        (Part("Classic5", 5),),
        pixels="841b70ed923137ad957c2774896e626ae3c39fc984020b7b1fe259a66f984c9b",
    ),
    "BSDS500": Recipe(
        "The test images of Berkeley's segmentation data set; they are JPEG files themselves.",
        ("http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",),
        (Part("BSR/BSDS500/data/images/test", 200),),
    ),
    "ICB": Recipe(
        "The image compression benchmark's 8-bit RGB images; the count was not checked.",
        ("http://imagecompression.info/test_images/rgb8bit.zip",),
        (Part("ICB", None),),
    ),
}
