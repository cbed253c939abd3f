"""The options of our data sets: what may stand in a section below ``datasets``."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from cir_data.draws import IntegerOption, JPEGQuality, Mixture, NameOption, check_range
from cir_data.images.color import Color
from cir_data.images.compression import Subsampling
from cir_data.storage.dataroots import as_list
from cir_data.storage.lmdb_source import is_lmdb
from cir_host.options import DatasetOptions

Roots = str | Annotated[list[str], Meta(min_length=1)]

Shift: TypeAlias = Annotated[int, Meta(ge=0, le=15)]
Factor: TypeAlias = Annotated[float, Meta(ge=0.1, le=4)]
Table: TypeAlias = Annotated[
    list[Annotated[int, Meta(ge=1, le=255)]], Meta(min_length=64, max_length=64)
]
Commands: TypeAlias = str | Annotated[list[str], Meta(min_length=1)]
CodecName: TypeAlias = Literal["jpeg", "webp", "avif", "hevc", "jxl"]
Library: TypeAlias = Literal[
    "pillow",
    "libjpeg-9",
    "libjpeg-9a",
    "libjpeg-9b",
    "libjpeg-9c",
    "libjpeg-9d",
    "libjpeg-9e",
    "libjpeg-9f",
]


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
        self._check_scale()
        for key, roots in self._roots():
            self._check_roots(key, roots)

    def _check_scale(self) -> None:
        if self.scale != 1:
            raise ValueError(f"scale must be 1 for {self.type}, which keeps the size of images")

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
    debug_pairs: Annotated[
        int,
        Meta(
            ge=0,
            description="Write the first so many pairs of the run, in the order of training or of"
            " the data set, with all that was drawn for them, into pairs_NAME.png in the current"
            " directory; once, when the first sample is asked for.",
        ),
    ] = 0
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


class FactorRange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``{range: [0.5, 1.5]}``: a factor drawn evenly between the two."""

    range: tuple[Factor, Factor]
    probability: Annotated[
        float, Meta(ge=0, le=1, description="How often it is resized; the factor is 1 otherwise.")
    ] = 1

    def __post_init__(self) -> None:
        check_range(self.range)


class DoubleOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An earlier JPEG compression of the image: ``double: {quality: {range: [30, 95]}}``."""

    quality: Annotated[
        IntegerOption[JPEGQuality],
        Meta(description="That of the first compression, in the forms of the key quality."),
    ]
    subsampling: Annotated[
        NameOption[Subsampling], Meta(description="That of the first compression.")
    ] = "4:2:0"
    probability: Annotated[
        float, Meta(ge=0, le=1, description="How often an image is compressed twice.")
    ] = 1
    shift: Annotated[
        Literal["none", "random"] | tuple[Shift, Shift],
        Meta(
            description="Rows and columns, 0 to 15, that the image loses at top and left between"
            " the two compressions, so that their grids differ; random: each evenly drawn."
        ),
    ] = "none"
    resize: Annotated[
        Factor | FactorRange | None,
        Meta(
            description="Resize the image, and its original with it, between the two compressions,"
            " before the shift, by Pillow's bicubic filter: a factor or {range: [0.5, 1.5],"
            " probability: 0.5}. The whole image is then compressed and resized for each crop."
        ),
    ] = None

    @property
    def fixed(self) -> bool:
        """Whether nothing is drawn."""
        return (
            self.probability in (0, 1)
            and Mixture[int].of(self.quality).fixed
            and Mixture[Subsampling].of(self.subsampling).fixed
            and self.shift != "random"
            and not isinstance(self.resize, FactorRange)
        )


class JPEGRestorationOptions(PairOptions, kw_only=True):
    """Keys of ``JPEGRestorationDataset``."""

    quality: Annotated[
        IntegerOption[JPEGQuality] | None,
        Meta(
            description="JPEG quality, 1 to 100. Training also takes {choices: [10, 20, 30]} or"
            " {range: [10, 70]}, from which it draws for each crop; both ends are included; or a"
            " mixture: [{choices: [10, 20], weight: 0.75}, {range: [8, 96], weight: 0.25}]."
        ),
    ] = None
    tables: Annotated[
        str | Annotated[list[Table], Meta(min_length=1, max_length=2)] | None,
        Meta(
            description="Quantisation tables in place of a quality: one or two (luma, chroma) of 64"
            " integers row by row, or a text file of such, or a JPEG file that has them."
        ),
    ] = None
    subsampling: Annotated[
        NameOption[Subsampling],
        Meta(
            description='"4:4:4", "4:2:2" or "4:2:0" (with quotation marks, as YAML reads some such'
            ' numbers as times). Training also takes {choices: ["4:4:4", "4:2:0"]} or a mixture as'
            " for quality. Without effect on one channel."
        ),
    ] = "4:2:0"
    progressive: Annotated[
        bool, Meta(description="Store progressively; this takes longer and changes no pixel.")
    ] = False
    library: Annotated[
        Library,
        Meta(
            description="pillow: the libjpeg that Pillow was built with, mostly libjpeg-turbo."
            " libjpeg-9 to libjpeg-9f: these releases of the IJG, through the package jpeglib."
        ),
    ] = "pillow"
    double: Annotated[
        DoubleOptions | None,
        Meta(description="Compress images twice, as they are that were saved and saved again."),
    ] = None
    align: Annotated[
        Literal["none", "mcu"],
        Meta(
            description="Training: mcu: crops start at a corner of JPEG's units of 8 or 16 pixels,"
            " as where patches are cut before they are compressed. none: anywhere."
        ),
    ] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.quality is None) == (self.tables is None):
            raise ValueError("give either quality or tables")
        if self.progressive and self.library != "pillow":
            raise ValueError("progressive needs library: pillow")
        if self.phase == "train":
            return
        if self.quality is not None and not isinstance(self.quality, int):
            raise ValueError(
                "quality must be one integer where metrics are measured; make a section for each"
            )
        if not isinstance(self.subsampling, str):
            raise ValueError(
                "subsampling must be one value where metrics are measured; make a section for each"
            )
        if self.double is not None and not self.double.fixed:
            raise ValueError(
                "double must leave nothing to chance where metrics are measured: probability 0 or"
                " 1, one quality, one subsampling, a shift in numbers, one factor to resize by"
            )


class CommandOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A codec by programs: ``{name: x265, encode: ..., decode: ..., quality_range: [0, 51]}``."""

    name: Annotated[str, Meta(min_length=1, description="What results call the codec.")]
    encode: Annotated[
        Commands,
        Meta(
            description="The command that compresses, or several, run one after the other without a"
            " shell: {input} is the image as PNG, {bitstream} the file to write; {quality},"
            " {width}, {height} and {folder}, a folder for files between them, may be used too."
        ),
    ]
    decode: Annotated[
        Commands,
        Meta(
            description="The command or commands that read {bitstream} and write the image as"
            " {output}, a PNG; {width}, {height} and {folder} as above."
        ),
    ]
    quality_range: Annotated[
        tuple[int, int], Meta(description="The lowest and highest quality that it takes.")
    ] = (0, 100)
    suffix: Annotated[str, Meta(description="What the name of {bitstream} ends in.")] = ".bin"
    timeout: Annotated[float, Meta(gt=0, description="Seconds that one command may take.")] = 60
    version: Annotated[
        str | None,
        Meta(description="A command whose first line of output results show beside the name."),
    ] = None

    def __post_init__(self) -> None:
        check_range(self.quality_range)


class CodecRestorationOptions(PairOptions, kw_only=True):
    """Keys of ``CodecRestorationDataset``."""

    codec: Annotated[
        CodecName | CommandOptions,
        Meta(
            description="jpeg, webp, avif, hevc, jxl, or the commands of any other. hevc and jxl"
            " need packages: pip install 'basicsr-cir[codecs]'."
        ),
    ]
    quality: Annotated[
        IntegerOption[int],
        Meta(
            description="On the codec's own scale, in the forms that JPEGRestorationDataset takes;"
            " hevc: 0 to 100 of libheif, which is no QP."
        ),
    ]
    context: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Training: compress no more than this many pixels around the crop, from a"
            " multiple of 64 on, in place of the whole image. Much faster; the crop is then not bit"
            " for bit that of the whole compressed image. JPEG needs no more than is exact."
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phase != "train" and not isinstance(self.quality, int):
            raise ValueError(
                "quality must be one integer where metrics are measured; make a section for each"
            )


class CodecEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One codec of ``UCSRDataset``."""

    name: Annotated[str, Meta(description="One of codec_names, which gives codec_index.")]
    codec: Annotated[
        CodecName | CommandOptions | None,
        Meta(description="As for CodecRestorationDataset; or give folder."),
    ] = None
    quality: Annotated[
        IntegerOption[int] | None, Meta(description="Of the codec, as for CodecRestorationDataset.")
    ] = None
    folder: Annotated[
        str | None,
        Meta(
            description="Small images that were reduced and compressed elsewhere:"
            " FOLDER/QUALITY/sub/NAME.png belongs to sub/NAME.png of dataroot_gt, whatever the"
            " extensions are; FOLDER/QUALITY.lmdb is possible too."
        ),
    ] = None
    qualities: Annotated[
        Annotated[list[int | str], Meta(min_length=1)] | None,
        Meta(description="The qualities in folder, by the names of the folders below it."),
    ] = None
    weight: Annotated[
        float, Meta(gt=0, description="How often the codec is taken, in relation to the others.")
    ] = 1

    def __post_init__(self) -> None:
        online = (self.codec is not None, self.quality is not None)
        stored = (self.folder is not None, self.qualities is not None)
        if (online, stored) not in (((True, True), (False,) * 2), ((False,) * 2, (True, True))):
            raise ValueError("give either codec and quality, or folder and qualities")

    @property
    def fixed(self) -> bool:
        """Whether there is one quality only."""
        if self.quality is not None:
            return Mixture[int].of(self.quality).fixed
        return len(self.qualities or ()) == 1


class UCSROptions(PairOptions, kw_only=True):
    """Keys of ``UCSRDataset``."""

    codec_names: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="All codecs in the order of the network's indices, used here or not; for"
            " UCIP: [jpeg, hm, vtm, c_psnr, c_ssim, hific].",
        ),
    ]
    codecs: Annotated[
        list[CodecEntry],
        Meta(
            min_length=1,
            description="The codecs from which each sample draws one, then one of its qualities;"
            " a single one with a single quality where metrics are measured.",
        ),
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        for entry in self.codecs:
            if entry.name not in self.codec_names:
                raise ValueError(
                    f"codecs: {entry.name!r} is not one of codec_names: "
                    + ", ".join(self.codec_names)
                )
        if self.gt_size is not None and self.gt_size % self.scale:
            raise ValueError(f"gt_size {self.gt_size} must be a multiple of scale {self.scale}")
        if self.phase != "train" and not (len(self.codecs) == 1 and self.codecs[0].fixed):
            raise ValueError(
                "codecs must be one codec with one quality where metrics are measured; make a"
                " section for each"
            )

    def _check_scale(self) -> None:
        if self.scale < 2:
            raise ValueError(f"scale must be 2 or more for {self.type}, which reduces images")


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
