"""A picture read completely: pixels of 8 or 16 bits, alpha, and all metadata of its file.

:mod:`cir_data.images.decoding` reads images for data sets, by simpler rules. Here:

- Grey stays grey, and 16 bits stay 16 bits: PNG is decoded by OpenCV, TIFF by tifffile, and JPEG
  2000 by imagecodecs, because Pillow reduces 16-bit colour to 8 bits. Other bit depths of TIFF and
  JPEG 2000 are scaled up to 8 or 16. Palettes become RGB, black and white becomes 0 and 255.
- Alpha is kept separately, including that of a palette or of a transparent colour. Premultiplied
  colour is divided by alpha. Other channels are dropped, with a warning.
- CMYK and YCCK become sRGB through the embedded profile, or by Pillow's formula if there is none,
  and the result gets an sRGB profile. Lab becomes sRGB. All other profiles stay as they are.
- Pixels stay in the orientation in which the file stores them, because JPEG's blocks begin at the
  corner of the stored picture. :meth:`Picture.upright` turns them; EXIF and XMP state 1 already.
- A file of several frames is refused, except that an MPO, which cameras write as JPEG, gives its
  first picture, and a TIFF with overviews and masks gives its page of full size.
- Signed, 32-bit and floating-point samples are refused: the file does not state their range.
- Metadata that is damaged or too large is dropped, with a warning.
- A truncated or damaged file is decoded as far as possible, with a warning that says what is
  missing as far as that is known. If nothing can be decoded, the file is refused. Zeros in place of
  uncompressed samples look like black and go unnoticed.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cir_data.images import deep_jpeg2000, deep_png, jpeg_stream, png_stream, tiff_pages
from cir_data.images.channels import Samples, plain_mode, split_alpha
from cir_data.images.errors import DECODING_ERRORS, UnreadableImage
from cir_data.images.exif import EXIF_HEADER
from cir_data.images.geometry import Orientation
from cir_data.images.jpeg_facts import jpeg_quality
from cir_data.images.jpeg_stream import JpegStream
from cir_data.images.metadata import Metadata, metadata_of, orientation_of
from cir_data.images.opening import Source, open_image, opened
from cir_data.images.png_stream import PngStream
from cir_data.images.srgb import srgb_profile, to_srgb

_TOO_MANY_ZEROS = 0.1
"""Share of zeros at the end of a file that indicates a failed copy; blank pictures have 0.06."""


_AS_STORED = Orientation()


class TruncatedImage(UnreadableImage):
    """A truncated or damaged file, where ``strict`` reading refuses it."""


@dataclass(frozen=True)
class FileFacts:
    """Facts from a file's header, before anything is decoded."""

    format: str
    """Pillow's name, with ``JPEG`` for ``MPO``."""
    width: int
    height: int
    quality: int | None
    """JPEG quality, 1 to 100, judged by the file's tables; None for other formats."""
    standard_tables: bool
    """Whether the tables are exactly those of that quality."""
    lossless: bool
    frames: int = 1
    """More than 1 only for lossless files; :func:`read` refuses these."""

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@dataclass(frozen=True)
class Picture:
    """A decoded file, in the orientation in which the file stores it."""

    samples: Samples
    alpha: Samples | None
    """(H, W), of the type of ``samples``."""
    metadata: Metadata
    """That of the upright picture."""
    warnings: tuple[str, ...] = ()
    """Warnings for the user, such as that the file is truncated."""
    orientation: Orientation = _AS_STORED
    """What turns samples and alpha upright."""

    def upright(self) -> "Picture":
        """Return the picture as it is meant to be seen."""
        turn, alpha = self.orientation, self.alpha
        return replace(
            self,
            samples=np.ascontiguousarray(turn.apply(self.samples)),
            alpha=None if alpha is None else np.ascontiguousarray(turn.apply(alpha)),
            orientation=_AS_STORED,
        )


def examine(data: bytes, where: str) -> FileFacts:
    """Read the header of an image file.

    Args:
        data: The file's content.
        where: Its path, for messages.

    Raises:
        UnreadableImage: It is empty, its format cannot be read, or it holds several frames with
            lossy compression.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (64, 48)).save(file, "JPEG", quality=40)
        >>> facts = examine(file.getvalue(), "photo.jpg")
        >>> facts.format, facts.width, facts.height, facts.quality, facts.lossless
        ('JPEG', 64, 48, 40, False)
    """
    with opened(data, where) as source:
        if source.frames > 1 and not source.lossless:
            raise _several(source, where)
        quality, standard = jpeg_quality(source.image)
        page = source.page
        return FileFacts(
            format=source.format,
            width=source.image.width if page is None else page.width,
            height=source.image.height if page is None else page.height,
            quality=quality,
            standard_tables=standard,
            lossless=source.lossless,
            frames=source.frames,
        )


def read(data: bytes, where: str, *, strict: bool = False) -> Picture:
    """Decode an image file completely.

    Args:
        data: The file's content.
        where: Its path, for messages.
        strict: Refuse a truncated or damaged file instead of decoding it as far as it goes.

    Raises:
        TruncatedImage: It is truncated or damaged, and ``strict``.
        UnreadableImage: Nothing can be decoded, the range of the samples is unknown, or the file
            holds several frames.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGBA", (64, 48)).save(file, "PNG", dpi=(300, 300))
        >>> picture = read(file.getvalue(), "photo.png")
        >>> picture.samples.shape, picture.alpha.shape, round(picture.metadata.dpi[0])
        ((48, 64, 3), (48, 64), 300)
    """
    with opened(data, where) as source:
        if source.frames > 1:
            raise _several(source, where)
        reader = _Reader(source, where, strict)
        samples, alpha = reader.pixels()
        metadata = reader.metadata.upright()
        return Picture(samples, alpha, metadata, tuple(reader.notes), reader.orientation)


def _several(source: Source, where: str) -> UnreadableImage:
    return UnreadableImage(
        f"{where}: holds {source.frames} frames or pages; save one as an image of its own"
    )


class _Reader:
    """Decodes one opened file, and collects warnings for the user."""

    def __init__(self, source: Source, where: str, strict: bool) -> None:
        self._source = source
        self._image = source.image
        self._where = where
        self._strict = strict
        self.notes = list(source.notes)
        png = png_stream.parse(source.data) if source.format == "PNG" else None
        self._png = None if png is None else png.filled()
        if self._png is not None:
            self._image = open_image(self._png.file())
            dropped = dict.fromkeys(self._png.dropped)
            self.notes += [f"its {what} is damaged or too large and dropped" for what in dropped]
        told = self._image if self._png is None else open_image(self._png.metadata_file())
        self.metadata, orientation = self._metadata(told)
        if source.jpeg is not None and source.jpeg.follows:
            count = source.jpeg.follows
            size = f"{count} bytes" if count < 1000 else f"{count / 1e3:.0f} kB"
            what = f"{size} after the picture (such as an HDR gain map or a video)"
            self.metadata = replace(self.metadata, dropped=(*self.metadata.dropped, what))
        if source.page is not None and source.stands_in:
            orientation = source.page.orientation
        self.orientation = Orientation.upright(orientation)

    def pixels(self) -> tuple[Samples, Samples | None]:
        """Return samples and alpha in the orientation in which they are stored."""
        source, png = self._source, self._png
        page = source.page
        if page is not None and page.readable:
            decoded = self._tiff_page(page.index)
            if decoded is not None:
                return decoded
        if png is not None:
            return self._png_pixels(png)
        if source.format == "JPEG2000" and deep_jpeg2000.bits_of(source.data) > 8:
            return split_alpha(deep_jpeg2000.decode(source.data))
        if source.jpeg is not None:
            self._load_jpeg(source.jpeg)
        else:
            if self._load() and source.zeros > _TOO_MANY_ZEROS:
                self._damaged(f"the last {_percent(source.zeros)} of the file are only zeros")
            if source.format == "TIFF":
                self.orientation = Orientation()  # Pillow turns it while loading
        return self._plain()

    def _metadata(self, image: Image.Image) -> tuple[Metadata, int]:
        """Return the metadata and the orientation, without damaged parts."""
        try:
            metadata, orientation = metadata_of(image), orientation_of(image)
            if metadata.exif is not None:
                Image.Exif().load(EXIF_HEADER + metadata.exif)  # Pillow may have kept it unread
            return metadata, orientation
        except DECODING_ERRORS:
            self.notes.append("its EXIF is damaged and dropped")
        image.info.pop("exif", None)
        try:
            return metadata_of(image), orientation_of(image)
        except DECODING_ERRORS:
            return Metadata(icc=image.info.get("icc_profile") or None), 1

    def _damaged(self, what: str) -> None:
        if self._strict:
            raise TruncatedImage(f"{self._where}: truncated or damaged: {what}")
        self.notes.append(f"truncated or damaged: {what}; the rest is restored")

    def _nothing(self) -> UnreadableImage:
        kind = self._source.jpeg.rarity if self._source.jpeg is not None else None
        what = kind or "truncated or damaged"
        return UnreadableImage(f"{self._where}: {what}: nothing of it can be decoded")

    def _side(self, bottom: bool) -> str:
        """Name the side of the upright picture where the stored rows end or begin."""
        if self.orientation.vertical_flip:
            bottom = not bottom
        if self.orientation.transpose:
            return "right" if bottom else "left"
        return "lower" if bottom else "upper"

    def _tiff_page(self, index: int) -> tuple[Samples, Samples | None] | None:
        """Decode a page by tifffile; None if Pillow should decode it instead."""
        try:
            page = tiff_pages.read_page(self._source.data, index)
        except DECODING_ERRORS:
            if self._source.stands_in:
                raise
            return None
        if page.lost:
            if self._pillow_decodes_all():
                return None
            self._damaged(f"{_percent(page.lost)} of the picture is missing and black")
        if page.left_out:
            self.notes.append(f"{page.left_out} channels other than colour and alpha are dropped")
        return page.samples, page.alpha

    def _pillow_decodes_all(self) -> bool:
        """Whether Pillow decodes the whole page at its full bit depth."""
        if self._source.stands_in or self._image.mode not in ("L", "LA", "RGB", "RGBA"):
            return False
        try:
            self._image.load()
        except DECODING_ERRORS:
            return False
        return True

    def _png_pixels(self, png: PngStream) -> tuple[Samples, Samples | None]:
        if png.lost == 1:
            raise self._nothing()
        if png.lost and png.header.interlaced:
            self._damaged(f"{_percent(png.lost)} of its data is missing, and pixels are black")
        elif png.lost:
            side = self._side(bottom=True)
            self._damaged(f"the {side} {_percent(png.lost)} of the picture is missing and black")
        elif not png.intact:
            self._damaged("a checksum of its data is wrong")
        if png.transparent is not None:
            self._image.info.pop("transparency", None)  # Pillow does not scale that of 1 to 4 bits
        if png.header.bits == 16:
            samples, alpha = deep_png.decode(
                png.file(b"IHDR", b"IDAT", b"IEND"), png.header.is_grey
            )
        else:
            self._load()
            samples, alpha = self._plain()
        if png.transparent is not None:
            alpha = png_stream.opaque(samples, png.transparent)
        return samples, alpha

    def _load_jpeg(self, stream: JpegStream) -> None:
        if not stream.has_data:
            raise self._nothing()
        damage = jpeg_stream.damage_of(stream)
        if damage is None:
            self._load()
            return
        self._image = open_image(damage.remains)
        if not self._load():
            return  # libjpeg gave up, and _load has added a warning
        rows = jpeg_stream.undecoded_rows(self._image)
        if rows == self._image.height:
            raise self._nothing()
        if rows:
            share = _percent(rows / self._image.height)
            self._damaged(
                f"the {self._side(bottom=True)} {share} of the picture is missing and grey"
            )
        elif damage.warning is None or "premature end" in damage.warning:
            self._damaged("its data end early: detail, colour or the last blocks are missing")
        else:
            self._damaged(f"libjpeg says: {damage.warning}")

    def _load(self) -> bool:
        """Decode by Pillow; if it fails, keep what it has decoded. Return whether it succeeded."""
        image: Any = self._image
        try:
            image.load()
            return True
        except DECODING_ERRORS as error:
            if not hasattr(image, "tile"):
                raise
            reason = error
        image.tile = []  # nothing left to decode, so load() returns what there is
        try:
            image.load()
        except DECODING_ERRORS:
            raise reason from None
        if self._source.format == "TIFF":
            image.load_end()  # this turns it
            self.orientation = Orientation()
        empty = _empty_rows(image)
        if empty.all():
            raise self._nothing() from reason
        share = _percent(float(empty.mean()))
        if not empty.any():
            self._damaged(str(reason))
        elif empty[-1] and not empty[: -int(empty.sum())].any():
            self._damaged(f"the {self._side(bottom=True)} {share} of the picture is missing")
        elif empty[0] and not empty[int(empty.sum()) :].any():
            self._damaged(f"the {self._side(bottom=False)} {share} of the picture is missing")
        else:
            self._damaged(f"{share} of the rows are missing")
        return False

    def _plain(self) -> tuple[Samples, Samples | None]:
        """Return what Pillow has decoded as grey or RGB, with 16 bits for 16-bit grey."""
        image, mode = self._image, self._image.mode
        if mode.startswith("I;16") and not mode.endswith("S"):
            return np.asarray(image).astype(np.uint16), None
        if mode == "I" and image.format == "PPM":  # PPM has at most 16 bits
            return np.asarray(image).astype(np.uint16), None
        if mode == "F" or mode.startswith("I"):
            raise UnreadableImage(
                f"{self._where}: its samples ({self._layout()}) have no stated range;"
                " save it with 8 or 16 bits"
            )
        if mode in ("CMYK", "LAB"):
            image = to_srgb(image, self.metadata.icc, self.notes)
            self.metadata = replace(self.metadata, icc=srgb_profile())
        wanted = plain_mode(image)
        return split_alpha(np.asarray(image if image.mode == wanted else image.convert(wanted)))

    def _layout(self) -> str:
        if self._source.page is not None:
            return self._source.page.layout
        return "32-bit floating-point" if self._image.mode == "F" else "32-bit"


def _empty_rows(image: Image.Image) -> npt.NDArray[np.bool_]:
    """Find the rows that hold only the initial values of a new Pillow image."""
    samples = np.asarray(image)
    fill = image.info.get("transparency", 0) if image.format == "GIF" else 0
    empty: npt.NDArray[np.bool_] = (samples == fill).reshape(len(samples), -1).all(axis=1)
    return empty


def _percent(share: float) -> str:
    return f"{min(99, max(1, round(100 * share)))} %"
