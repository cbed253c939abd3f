"""Opening a picture's file: detect its format, or say why it cannot be read."""

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from cir_data.images import jpeg_stream, png_stream, tiff_pages, webp_stream
from cir_data.images.errors import DECODING_ERRORS, UnreadableImage
from cir_data.images.jpeg_stream import JpegStream
from cir_data.images.tiff_pages import Page
from cir_host.errors import UserError
from cir_host.extras import needs_extra

_NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow identifies but cannot decode by itself."""

_KINDS = (
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (0, b"II\xbc\x01", "a JPEG XR picture"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw file (RAF)"),
    (0, b"IIRO", "a camera raw file (ORF)"),
    (0, b"IIRS", "a camera raw file (ORF)"),
    (0, b"IIU\0", "a camera raw file (RW2)"),
    (6, b"HEAPCCDR", "a camera raw file (CRW)"),
    (0, b"FOVb", "a camera raw file (X3F)"),
    (0, b"\0MRM", "a camera raw file (MRW)"),
    (4, b"ftypcrx ", "a camera raw file (CR3)"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (128, b"DICM", "a DICOM file"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (4, b"ftypisom", "a video"),
    (4, b"ftypmp4", "a video"),
    (4, b"ftypqt  ", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
)
"""Offset and bytes that identify a format; Pillow does not read most of these."""

_YCBCR = 6
"""The value of TIFF's PhotometricInterpretation."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

_LOSSLESS = {"PNG", "BMP", "DIB", "GIF", "PPM", "TGA", "PCX", "DCX", "SGI", "SUN", "QOI", "ICO"}
_LOSSLESS |= {"CUR", "MSP", "XBM", "XPM", "PSD"}
"""Lossless formats. TIFF and WebP can be lossless or lossy."""

_ONE_PICTURE = {"JPEG", "MPO", "PSD"}
"""Formats whose first picture counts; others are previews, views or layers."""

_LIMIT_LIFTED = threading.Lock()

warnings.filterwarnings("ignore", module=r"PIL\.")  # once: changing filters is not thread-safe


@dataclass
class Source:
    """An opened file whose pixels are not decoded yet."""

    image: Image.Image
    data: bytes
    """The bytes that ``image`` is opened from: the file, or its undamaged part."""
    frames: int
    jpeg: JpegStream | None = None
    page: Page | None = None
    stands_in: bool = False
    """Whether ``image`` has only the metadata, because Pillow cannot read the layout."""
    notes: list[str] = field(default_factory=list)

    @property
    def format(self) -> str:
        """Pillow's name, with ``JPEG`` for ``MPO``."""
        return "JPEG" if self.image.format == "MPO" else str(self.image.format)

    @property
    def lossless(self) -> bool:
        """Whether all frames of the file are lossless."""
        if self.page is not None:
            return self.page.lossless
        if self.format == "WEBP":
            return not webp_stream.has_loss(self.data)
        return self.format in _LOSSLESS

    @property
    def zeros(self) -> float:
        """Share of zeros at the end of a WebP or AVIF, which never end in zeros; else 0."""
        if self.format not in ("WEBP", "AVIF"):
            return 0
        end = webp_stream.size_of(self.data) if self.format == "WEBP" else len(self.data)
        return 1 - len(self.data[:end].rstrip(b"\0")) / end


@contextmanager
def opened(data: bytes, where: str) -> Iterator[Source]:
    """Open a file; failures while it is open are raised as :class:`UnreadableImage`, too.

    Raises:
        UnreadableImage: It is empty, damaged, or its format cannot be read.
    """
    if not data:
        raise UnreadableImage(f"{where}: the file is empty")
    try:
        source = _source(data)
        with source.image:
            yield source
    except UnreadableImage:
        raise
    except UserError as error:  # a plugin that is missing
        raise UnreadableImage(f"{where}: {error}") from error
    except (*DECODING_ERRORS, RuntimeError, MemoryError) as error:
        reason = _reason(data, error)
        raise UnreadableImage(f"{where}: cannot be read as an image: {reason}") from error


def open_image(data: bytes) -> Image.Image:
    """Open an image of any size by Pillow; the caller decides what is too large."""
    file = io.BytesIO(data)
    try:
        return not_misread(Image.open(file, formats=_formats()))
    except Image.DecompressionBombError:
        with _LIMIT_LIFTED:  # Pillow offers no other way; other threads lose the limit meanwhile
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return not_misread(Image.open(file, formats=_formats()))
            finally:
                Image.MAX_IMAGE_PIXELS = limit


def not_misread(image: Image.Image) -> Image.Image:
    """Return an image, unless Pillow takes its samples for something else.

    Before version 13, Pillow takes uncompressed YCbCr in TIFF for RGB with a fourth channel.

    Raises:
        ValueError: It does.
    """
    if (
        isinstance(image, TiffImageFile)
        and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == _YCBCR
        and image.mode == "RGB"
        and any(tile.codec_name == "raw" for tile in image.tile)
    ):
        raise ValueError("uncompressed YCbCr in TIFF, which needs Pillow 13; update it")
    return image


def _formats() -> list[str]:
    _all_plugins()
    return [name for name in Image.ID if name not in _NO_PICTURES]


@cache
def _all_plugins() -> None:
    Image.preinit()
    Image.init()


def _source(data: bytes) -> Source:
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:4] in tiff_pages.SIGNATURES:
        return _tiff(data)
    if data[:8] == png_stream.SIGNATURE:
        return _png(data)
    if webp_stream.is_webp(data):
        return _webp(data)
    add_plugin(data)
    image = open_image(data)
    return Source(image, data, _frames(image))


def _frames(image: Image.Image) -> int:
    return 1 if image.format in _ONE_PICTURE else getattr(image, "n_frames", 1)


def _jpeg(data: bytes) -> Source:
    stream = jpeg_stream.parse(data)
    if not stream.is_supported:
        raise ValueError(f"{stream.rarity}, which Pillow does not read")
    whole = data if stream.whole and stream.as_stored else stream.data
    try:
        return Source(open_image(whole), whole, 1, jpeg=stream)
    except DECODING_ERRORS:
        stream = stream.without_metadata()
    try:
        image = open_image(stream.data)
    except UnidentifiedImageError as error:
        raise ValueError(f"a damaged JPEG ({_refusal(data) or 'without a header'})") from error
    note = "its metadata is damaged and dropped"
    return Source(image, stream.data, 1, jpeg=stream, notes=[note])


def _tiff(data: bytes) -> Source:
    page = tiff_pages.page_of(data)
    if data[8:10] == b"CR" or (page is not None and page.raw):
        raise ValueError("a camera raw file; Pillow would read its preview; develop it first")
    if page is None:
        try:
            image = open_image(data)
        except DECODING_ERRORS as error:
            what = "its directory is damaged or lies beyond the end of the file"
            raise ValueError(f"TIFF: {what}") from error
        return Source(image, data, _frames(image))
    notes = ["it names more pages, which cannot be read"] if page.broken else []
    try:
        return Source(_seeked(data, page.index), data, page.pages, page=page, notes=notes)
    except DECODING_ERRORS as error:
        if not page.readable:
            raise ValueError(f"a TIFF layout that cannot be read: {page.layout}") from error
    try:
        image = _seeked(tiff_pages.with_plain_layout(data, page.index), page.index)
    except DECODING_ERRORS:
        image = Image.new("L", (1, 1))
        image.format = "TIFF"
        notes.append("Pillow cannot read its metadata, which is dropped")
    return Source(image, data, page.pages, page=page, stands_in=True, notes=notes)


def _seeked(data: bytes, index: int) -> Image.Image:
    image = open_image(data)
    if index:
        image.seek(index)
    return image


def _png(data: bytes) -> Source:
    try:
        image = open_image(data)
    except DECODING_ERRORS:
        stream = png_stream.parse(data)
        if stream is None:
            raise
        image = open_image(stream.file())
    return Source(image, data, _frames(image))


def _webp(data: bytes) -> Source:
    missing = webp_stream.missing_bytes(data)
    if missing:
        raise ValueError(f"WebP is decoded whole or not at all, and {missing} bytes are missing")
    try:
        image = open_image(data)
        return Source(image, data, _frames(image))
    except DECODING_ERRORS:
        data = webp_stream.without_metadata(data)
        image = open_image(data)
        return Source(image, data, _frames(image), notes=["its metadata is damaged and dropped"])


def add_plugin(data: bytes) -> None:
    """Register the Pillow plugin that a file needs.

    Args:
        data: The file, or its first 132 bytes.

    Raises:
        UserError: The plugin is not installed.
    """
    kind = _kind(data)
    if kind == "a HEIC picture":
        needs_extra("pillow_heif", "codecs", kind).register_heif_opener()
    elif kind == "a JPEG XL picture":
        needs_extra("pillow_jxl", "codecs", kind)


def _kind(data: bytes) -> str | None:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "a HEIC picture"
    return next((k for at, magic, k in _KINDS if data.startswith(magic, at)), None)


def _reason(data: bytes, error: BaseException) -> str:
    """Say in plain words why a file cannot be read."""
    kind = _kind(data)
    if isinstance(error, UnidentifiedImageError):
        refusal = _refusal(data)
        if refusal is None:
            return f"{kind}, which Pillow does not read" if kind else "no format that Pillow knows"
    else:
        refusal = _sentence(error)
    return f"{kind}: {refusal}" if kind else refusal


def _refusal(data: bytes) -> str | None:
    """Return the error of the plugin that accepts files with this start; Pillow hides it."""
    for name in _formats():
        factory, accept = Image.OPEN[name]
        try:
            if accept is None or accept(data[:16]) is not True:
                continue
        except DECODING_ERRORS:  # on files of a few bytes
            continue
        try:
            factory(io.BytesIO(data), "")
        except DECODING_ERRORS as error:
            return f"{name}: {_sentence(error)}"
    return None


def _sentence(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, SyntaxError) and error.__cause__ else error
    if isinstance(cause, KeyError):
        return f"a layout that Pillow does not know ({cause})"
    if isinstance(cause, (IndexError, EOFError, struct.error)):
        return "its header is cut short or damaged"
    if isinstance(cause, TypeError):
        return f"its header is damaged ({cause})"
    if isinstance(cause, MemoryError):
        return "it needs more memory than there is"
    return str(error) or type(error).__name__
