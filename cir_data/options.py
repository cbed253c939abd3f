"""The options of our data sets: what may stand in a section below ``datasets``."""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cir_data.color import Color
from cir_data.quality import QualityDraw, QualityValue
from cir_data.sources import as_list, is_lmdb
from cir_host.options import DatasetOptions

Roots = str | Annotated[list[str], Meta(min_length=1)]


class IOBackend(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """BasicSR's key; our data sets tell an LMDB by its ending and only check that this agrees."""

    type: Literal["disk", "lmdb"]


class ImageOptions(DatasetOptions, kw_only=True):
    """Keys of all our data sets."""

    color: Annotated[
        Color,
        Meta(
            description="rgb: three channels. y: MATLAB's Y (BT.601, 16 to 235, rounded to 8 bits)."
            " gray: the full-range luma of Pillow and OpenCV. Taken before compression; for y and"
            " gray, a grey image stays as it is stored."
        ),
    ] = "rgb"
    io_backend: Annotated[
        IOBackend | None, Meta(description="May be left out; type: disk or lmdb.")
    ] = None
    meta_info_file: Annotated[
        Roots | None,
        Meta(
            description="A text file whose lines start with the names of the images to take,"
            " relative to the dataroot; one for each dataroot."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.scale != 1:
            raise ValueError(f"scale must be 1 for {self.type}, which keeps the size of images")
        for key, roots in self._roots():
            self._check_roots(key, roots)

    def _roots(self) -> Iterator[tuple[str, Roots]]:
        """Yield the keys that hold dataroots, with their values."""
        raise NotImplementedError

    def _check_roots(self, key: str, roots: Roots) -> None:
        if self.meta_info_file and len(as_list(self.meta_info_file)) != len(as_list(roots)):
            raise ValueError(f"meta_info_file must name as many files as {key} names roots")
        for root in as_list(roots):
            if self.io_backend and is_lmdb(root) != (self.io_backend.type == "lmdb"):
                raise ValueError(
                    f"io_backend is of type {self.io_backend.type}, but {key} has {root}"
                    " (a path is an LMDB if it ends in .lmdb)"
                )


class PairOptions(ImageOptions, kw_only=True):
    """Keys of the data sets that have the original images."""

    dataroot_gt: Annotated[
        Roots,
        Meta(
            description="The original images: a folder, searched with all folders below it, or an"
            " LMDB in BasicSR's layout (its path ends in .lmdb), or a list of these."
        ),
    ]
    gt_size: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Training: edge of the square crops in pixels. A smaller image is extended"
            " to it at bottom and right by reflection."
        ),
    ] = None
    use_hflip: Annotated[bool, Meta(description="Training: flip half of the crops.")] = False
    use_rot: Annotated[
        bool,
        Meta(
            description="Training: flip half of the crops vertically and transpose half of them;"
            " with use_hflip, that is all rotations by 90 degrees and their mirror images."
        ),
    ] = False
    strict: Annotated[
        bool,
        Meta(
            description="Training: an image that cannot be decoded stops the run. Otherwise it is"
            " named once, counted, and another image takes its place. It always stops a validation"
            " or test, because a mean over the other images could not be compared."
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phase == "train" and self.gt_size is None:
            raise ValueError("gt_size is missing, the edge of the crops for training")

    def _roots(self) -> Iterator[tuple[str, Roots]]:
        yield "dataroot_gt", self.dataroot_gt


class JPEGRestorationOptions(PairOptions, kw_only=True):
    """Keys of ``JPEGRestorationDataset``."""

    quality: Annotated[
        QualityValue | QualityDraw,
        Meta(
            description="JPEG quality, 1 to 100. Training also takes {choices: [10, 20, 30]} or"
            " {range: [10, 70]}, from which it draws for each crop; both ends are included."
        ),
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phase != "train" and not isinstance(self.quality, int):
            raise ValueError(
                "quality must be one integer where metrics are measured; make a section for each"
            )


class PairedJPEGOptions(PairOptions, kw_only=True):
    """Keys of ``PairedJPEGDataset``."""

    dataroot_lq: Annotated[
        Roots,
        Meta(
            description="The compressed images, as dataroot_gt; for a list, in the same order."
            " sub/NAME.jpg here belongs to sub/NAME.png there, whatever the extensions are."
        ),
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(as_list(self.dataroot_gt)) != len(as_list(self.dataroot_lq)):
            raise ValueError("dataroot_gt and dataroot_lq must name equally many roots")

    def _roots(self) -> Iterator[tuple[str, Roots]]:
        yield from super()._roots()
        yield "dataroot_lq", self.dataroot_lq


class JPEGFolderOptions(ImageOptions, kw_only=True):
    """Keys of ``JPEGFolderDataset``."""

    dataroot_lq: Annotated[
        Roots,
        Meta(description="The compressed images: a folder, an LMDB, or a list of these."),
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phase == "train":
            raise ValueError(f"{self.type} has no original images to train on")

    def _roots(self) -> Iterator[tuple[str, Roots]]:
        yield "dataroot_lq", self.dataroot_lq
