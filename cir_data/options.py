"""The options of our data sets: the keys of a section below ``datasets``."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from cir_data.draws import IntegerOption, JPEGQuality, Mixture, NameOption, check_range
from cir_data.images.color import Color
from cir_data.images.compression import Subsampling
from cir_data.storage.dataroots import as_list
from cir_data.storage.lmdb_source import is_lmdb
from cir_host.typed_options import DatasetOptions

Roots = str | Annotated[list[str], Meta(min_length=1)]
Lists = str | Annotated[list[str | None], Meta(min_length=1)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]

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
    """BasicSR's key. Our data sets recognise an LMDB by its suffix, and check that this agrees."""

    type: Literal["disk", "lmdb"]


class ImageOptions(DatasetOptions, kw_only=True):
    """Keys of all our data sets."""

    color: Annotated[
        Color,
        Meta(
            description="rgb: three channels. y: MATLAB's Y (BT.601, 16 to 235, rounded to 8 bits)."
            " gray: the full-range luma of Pillow and OpenCV. The image is converted before"
            " compression; with y and gray, a grey image stays unchanged."
        ),
    ] = "rgb"
    io_backend: Annotated[IOBackend | None, Meta(description="Optional; type: disk or lmdb.")] = (
        None
    )
    meta_info_file: Annotated[
        Lists | None,
        Meta(
            description="A text file whose lines start with the names of the images to use,"
            " relative to the dataroot; one file per dataroot. In a list, ~ takes all images of a"
            " dataroot."
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
        """Yield the keys of dataroots with their values."""
        raise NotImplementedError

    def _check_roots(self, key: str, roots: Roots) -> None:
        lists = self.meta_info_file
        if lists and len(lists if isinstance(lists, list) else [lists]) != len(as_list(roots)):
            raise ValueError(f"meta_info_file must name as many files as {key} names roots")
        for root in as_list(roots):
            if self.io_backend and is_lmdb(root) != (self.io_backend.type == "lmdb"):
                raise ValueError(
                    f"io_backend is of type {self.io_backend.type}, but {key} has {root}"
                    " (a path is an LMDB if it ends in .lmdb)"
                )


class PairOptions(ImageOptions, kw_only=True):
    """Keys of the data sets with ground truth."""

    dataroot_gt: Annotated[
        Roots,
        Meta(
            description="The original images (ground truth): a folder, searched with its"
            " subfolders, or an LMDB in BasicSR's layout (its path ends in .lmdb), or a list of"
            " these."
        ),
    ]
    gt_size: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Training: edge of the square crops in pixels. A smaller image is padded at"
            " bottom and right by reflection."
        ),
    ] = None
    use_hflip: Annotated[
        bool, Meta(description="Training: flip half of the crops horizontally.")
    ] = False
    use_rot: Annotated[
        bool,
        Meta(
            description="Training: flip half of the crops vertically and transpose half of them;"
            " with use_hflip, this gives all rotations by 90 degrees and their mirror images."
        ),
    ] = False
    debug_pairs: Annotated[
        int,
        Meta(
            ge=0,
            description="Write this many pairs, the first of the training or of the data set, with"
            " their random draws to pairs_NAME.png in the current directory; once, when the first"
            " sample is loaded.",
        ),
    ] = 0
    strict: Annotated[
        bool,
        Meta(
            description="Training: stop at an image that cannot be decoded. Otherwise it is logged"
            " once, counted, and replaced by another image. Validation and test always stop,"
            " because a mean over the other images would not be comparable."
        ),
    ] = False
    cache: Annotated[
        bool,
        Meta(
            description="Decode all originals once, at the start, and keep them in memory that all"
            " data loader workers share: 3 bytes per pixel in each process that trains. The log"
            " says how much. Crops then cost no decoding."
        ),
    ] = False
    uint8: Annotated[
        bool,
        Meta(
            description="Training with CIRModel: samples stay 8-bit integers, a quarter of the"
            " memory and of the transfer, and the model divides them by 255 on its device; the"
            " values are the same bit for bit."
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phase == "train" and self.gt_size is None:
            raise ValueError("gt_size is missing, the edge of the crops for training")
        if self.phase != "train" and self.uint8:
            raise ValueError("uint8 is for training; remove it here")

    def _roots(self) -> Iterator[tuple[str, Roots]]:
        yield "dataroot_gt", self.dataroot_gt


class OnlineOptions(PairOptions, kw_only=True):
    """Keys of the data sets that compress clean images while loading and keep their size."""

    drawn: Annotated[
        Share,
        Meta(
            description="Training: share of the crops that show drawn pages of text and shapes in"
            " place of the images of dataroot_gt. Each page is new."
        ),
    ] = 0
    grey: Annotated[
        Share,
        Meta(
            description="Training: share of the crops that become grey before compression; the"
            " network still gets three channels, which are equal."
        ),
    ] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grey and self.color != "rgb":
            raise ValueError("grey needs color: rgb; with y and gray all crops are grey")
        self._check_training_only("drawn", "grey")

    def _check_training_only(self, *keys: str) -> None:
        """Raise a ``ValueError`` if one of these is set where metrics are measured."""
        given = [key for key in keys if getattr(self, key)]
        if self.phase != "train" and given:
            raise ValueError(f"{given[0]} is for training; remove it where metrics are measured")


class FactorRange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``{range: [0.5, 1.5]}``: a factor drawn uniformly between the two."""

    range: tuple[Factor, Factor]
    probability: Annotated[
        float, Meta(ge=0, le=1, description="Probability of resizing; otherwise the factor is 1.")
    ] = 1

    def __post_init__(self) -> None:
        check_range(self.range)


class DoubleOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An earlier JPEG compression of the image: ``double: {quality: {range: [30, 95]}}``."""

    quality: Annotated[
        IntegerOption[JPEGQuality],
        Meta(description="Quality of the first compression, in the forms of the key quality."),
    ]
    subsampling: Annotated[
        NameOption[Subsampling], Meta(description="Subsampling of the first compression.")
    ] = "4:2:0"
    probability: Annotated[
        float, Meta(ge=0, le=1, description="Probability that an image is compressed twice.")
    ] = 1
    shift: Annotated[
        Literal["none", "random"] | tuple[Shift, Shift],
        Meta(
            description="Rows and columns, 0 to 15, to crop at top and left between the two"
            " compressions, so that their block grids differ; random: draw each uniformly."
        ),
    ] = "none"
    shift_probability: Annotated[
        Share,
        Meta(description="Probability of the shift among the images that are compressed twice."),
    ] = 1
    tell: Annotated[
        Literal["last", "lowest"],
        Meta(
            description="The quality that samples state, for losses: that of the last compression,"
            " or the lower one of both."
        ),
    ] = "last"
    resize: Annotated[
        Factor | FactorRange | None,
        Meta(
            description="Resize the image and its original between the two compressions, before the"
            " shift, by Pillow's bicubic filter: a factor or {range: [0.5, 1.5], probability: 0.5}."
            " Each crop then needs the whole image to be compressed and resized."
        ),
    ] = None

    @property
    def fixed(self) -> bool:
        """Whether nothing is random."""
        return (
            self.probability in (0, 1)
            and (self.shift == "none" or self.shift_probability in (0, 1))
            and Mixture[int].of(self.quality).fixed
            and Mixture[Subsampling].of(self.subsampling).fixed
            and self.shift != "random"
            and not isinstance(self.resize, FactorRange)
        )


class AlignedShare(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``{mcu: 0.8}``: crops at an MCU corner with this probability, else anywhere."""

    mcu: Annotated[
        Share, Meta(description="Share of the crops that start at an MCU corner; others: anywhere.")
    ]


class CommandOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A codec by programs: ``{name: x265, encode: ..., decode: ..., quality_range: [0, 51]}``."""

    name: Annotated[str, Meta(min_length=1, description="Name of the codec in results.")]
    encode: Annotated[
        Commands,
        Meta(
            description="The command that compresses, or several that run one after the other,"
            " without a shell. {input} is the image as PNG, {bitstream} the file to write;"
            " optional: {quality}, {width}, {height} and {folder}, a folder for temporary files."
        ),
    ]
    decode: Annotated[
        Commands,
        Meta(
            description="The command or commands that read {bitstream} and write the image to"
            " {output}, a PNG; {width}, {height} and {folder} as above."
        ),
    ]
    quality_range: Annotated[
        tuple[int, int], Meta(description="Lowest and highest quality that the codec accepts.")
    ] = (0, 100)
    suffix: Annotated[str, Meta(description="File name suffix of {bitstream}.")] = ".bin"
    timeout: Annotated[float, Meta(gt=0, description="Time limit of one command in seconds.")] = 60
    version: Annotated[
        str | None,
        Meta(description="A command that prints the version; results show its first line."),
    ] = None

    def __post_init__(self) -> None:
        check_range(self.quality_range)


class OtherCodec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A codec for a share of the crops of ``JPEGRestorationDataset``."""

    codec: Annotated[
        CodecName | CommandOptions, Meta(description="As for CodecRestorationDataset.")
    ]
    quality: Annotated[IntegerOption[int], Meta(description="As for CodecRestorationDataset.")]
    probability: Annotated[Share, Meta(description="Share of the crops.")]
    context: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="As for CodecRestorationDataset.")
    ] = None


class JPEGRestorationOptions(OnlineOptions, kw_only=True):
    """Keys of ``JPEGRestorationDataset``."""

    quality: Annotated[
        IntegerOption[JPEGQuality] | None,
        Meta(
            description="JPEG quality, 1 to 100. Training also takes {choices: [10, 20, 30]} or"
            " {range: [10, 70]} (both ends included) to draw one for each crop, or a mixture:"
            " [{choices: [10, 20], weight: 0.75}, {range: [8, 96], weight: 0.25}]."
        ),
    ] = None
    tables: Annotated[
        str | Annotated[list[Table], Meta(min_length=1, max_length=2)] | None,
        Meta(
            description="Quantisation tables instead of a quality: one or two (luma, chroma) of 64"
            " integers row by row, or a text file of these, or a JPEG file with such tables."
        ),
    ] = None
    subsampling: Annotated[
        NameOption[Subsampling],
        Meta(
            description='"4:4:4", "4:2:2" or "4:2:0" (in quotation marks, because YAML may read'
            ' these as times). Training also takes {choices: ["4:4:4", "4:2:0"]} or a mixture, as'
            " for quality. No effect on one channel."
        ),
    ] = "4:2:0"
    progressive: Annotated[
        bool, Meta(description="Use progressive JPEG; this is slower and changes no pixel.")
    ] = False
    library: Annotated[
        Library,
        Meta(
            description="pillow: the libjpeg of Pillow, usually libjpeg-turbo. libjpeg-9 to"
            " libjpeg-9f: these releases of the IJG, through the package jpeglib."
        ),
    ] = "pillow"
    double: Annotated[
        DoubleOptions | None,
        Meta(description="Compress images twice, like images that were saved repeatedly."),
    ] = None
    align: Annotated[
        Literal["none", "mcu"] | AlignedShare,
        Meta(
            description="Training: mcu: crops start at multiples of 16 pixels, where MCUs of every"
            " subsampling have a corner, as if patches were cut before compression. none:"
            " anywhere. {mcu: 0.8}: a share of the crops at a corner. Flipped crops stay on the"
            " grid if gt_size is a multiple of 16."
        ),
    ] = "none"
    other_codecs: Annotated[
        list[OtherCodec] | None,
        Meta(
            description="Training: codecs that take the place of JPEG in a share of the crops:"
            " [{codec: webp, quality: {range: [5, 95]}, probability: 0.05, context: 24}]. The"
            " quality of these samples is unknown, -1."
        ),
    ] = None
    uncompressed: Annotated[
        Share,
        Meta(
            description="Training: share of the crops that are not compressed; their quality is"
            " 100."
        ),
    ] = 0
    coefficients: Annotated[
        bool,
        Meta(
            description="Training: give the DCT coefficients of each crop's JPEG as well, for"
            " networks that restore from them, such as JDEC. This needs the package jpeglib, align:"
            " mcu, a gt_size that is a multiple of 16, and crops that are JPEGs and not flipped."
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_training_only("coefficients")
        if self.coefficients:
            self._check_coefficients()
        if (self.quality is None) == (self.tables is None):
            raise ValueError("give either quality or tables")
        if self.progressive and self.library != "pillow":
            raise ValueError("progressive needs library: pillow")
        self._check_training_only("other_codecs", "uncompressed")
        others = sum(entry.probability for entry in self.other_codecs or ())
        if others + self.uncompressed > 1:
            raise ValueError("the probabilities of other_codecs and uncompressed exceed 1 in sum")
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
                "double must not be random where metrics are measured: probability 0 or"
                " 1, one quality, one subsampling, a shift in numbers, one factor to resize by"
            )

    def _check_coefficients(self) -> None:
        """Raise a ``ValueError`` if some crops would have no coefficients of their own."""
        others = [key for key in ("other_codecs", "uncompressed") if getattr(self, key)]
        turned = [key for key in ("use_hflip", "use_rot") if getattr(self, key)]
        if unfit := [*others, *turned]:
            raise ValueError(f"coefficients: true does not go with {unfit[0]}; remove one of them")
        if self.align != "mcu" or (self.gt_size or 0) % 16:
            raise ValueError(
                "coefficients: true needs align: mcu and a gt_size that is a multiple of 16"
            )
        if self.library != "pillow":
            raise ValueError("coefficients: true needs library: pillow")
        if self.color != "rgb":
            raise ValueError(
                "coefficients: true needs color: rgb; the network returns three channels"
            )


class CodecRestorationOptions(OnlineOptions, kw_only=True):
    """Keys of ``CodecRestorationDataset``."""

    codec: Annotated[
        CodecName | CommandOptions,
        Meta(
            description="jpeg, webp, avif, hevc, jxl, or the commands of any other. hevc and jxl"
            " need more packages: pip install 'basicsr-cir[codecs]'."
        ),
    ]
    quality: Annotated[
        IntegerOption[int],
        Meta(
            description="On the codec's own scale, in the forms that JPEGRestorationDataset takes;"
            " hevc: libheif's scale of 0 to 100, not a QP."
        ),
    ]
    context: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Training: compress at most this many pixels around the crop, starting at a"
            " multiple of 64, instead of the whole image. Much faster, but crops no longer equal"
            " those of the whole compressed image bit for bit. JPEG does not need this option."
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

    name: Annotated[str, Meta(description="One of codec_names; its index there is codec_index.")]
    codec: Annotated[
        CodecName | CommandOptions | None,
        Meta(description="As for CodecRestorationDataset; alternatively, give folder."),
    ] = None
    quality: Annotated[
        IntegerOption[int] | None, Meta(description="As for CodecRestorationDataset.")
    ] = None
    folder: Annotated[
        str | None,
        Meta(
            description="Images that are downscaled and compressed already:"
            " FOLDER/QUALITY/sub/NAME.png belongs to sub/NAME.png of dataroot_gt, ignoring file"
            " extensions; FOLDER/QUALITY.lmdb is possible, too."
        ),
    ] = None
    qualities: Annotated[
        Annotated[list[int | str], Meta(min_length=1)] | None,
        Meta(description="Names of the subfolders of folder, one per quality."),
    ] = None
    weight: Annotated[
        float, Meta(gt=0, description="How often the codec is drawn, relative to the others.")
    ] = 1

    def __post_init__(self) -> None:
        online = (self.codec is not None, self.quality is not None)
        stored = (self.folder is not None, self.qualities is not None)
        if (online, stored) not in (((True, True), (False,) * 2), ((False,) * 2, (True, True))):
            raise ValueError("give either codec and quality, or folder and qualities")

    @property
    def fixed(self) -> bool:
        """Whether there is only one quality."""
        if self.quality is not None:
            return Mixture[int].of(self.quality).fixed
        return len(self.qualities or ()) == 1


class UCSROptions(PairOptions, kw_only=True):
    """Keys of ``UCSRDataset``."""

    codec_names: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="All codecs in the order of the network's indices, used here or not. For"
            " UCIP: [jpeg, hm, vtm, c_psnr, c_ssim, hific].",
        ),
    ]
    codecs: Annotated[
        list[CodecEntry],
        Meta(
            min_length=1,
            description="Each sample draws one of these codecs, then one of its qualities. Give one"
            " codec with one quality where metrics are measured.",
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
            raise ValueError(f"scale must be 2 or more for {self.type}, which downscales images")


class PairedJPEGOptions(PairOptions, kw_only=True):
    """Keys of ``PairedJPEGDataset``."""

    dataroot_lq: Annotated[
        Roots,
        Meta(
            description="The compressed images, like dataroot_gt; lists must have the same order."
            " sub/NAME.jpg here belongs to sub/NAME.png there, ignoring file extensions."
        ),
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(as_list(self.dataroot_gt)) != len(as_list(self.dataroot_lq)):
            raise ValueError("dataroot_gt and dataroot_lq must name the same number of roots")

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
