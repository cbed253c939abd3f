"""The metadata of an image file: EXIF, colour profile, XMP, IPTC, resolution, texts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from cir_data.images import exif as exif_structure
from cir_data.images import xmp as xmp_packet
from cir_data.images.exif import EXIF_HEADER, ORIENTATION, STORAGE_TAGS
from cir_data.images.iptc import Iptc, iptc_of
from cir_data.images.jp2 import Boxes, read_boxes

_PNG_COMMENT = "Comment"

_NO_TEXTS = ("Raw profile type ", "XML:com.adobe.xmp", "xmp", "exif")
"""Prefixes of PNG text keys whose content is no text."""

_DAMAGE = (OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, OverflowError)
"""Errors of Pillow on damaged metadata."""


@dataclass(frozen=True)
class Metadata:
    """Metadata that is copied from an input to its output."""

    exif: bytes | None = None
    """A TIFF structure, without JPEG's header ``Exif``."""
    icc: bytes | None = None
    xmp: bytes | None = None
    iptc: Iptc | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    """JPEG's comment, or PNG's text of that name."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """PNG's texts."""
    dropped: tuple[str, ...] = ()
    """Metadata of the file that cannot be copied, in words that follow "dropped"."""

    def upright(self) -> "Metadata":
        """Return the metadata of the same picture turned upright: orientation 1."""
        return replace(
            self,
            exif=None if self.exif is None else exif_structure.upright(self.exif),
            xmp=None if self.xmp is None else xmp_packet.upright(self.xmp),
        )


def metadata_of(image: Image.Image) -> Metadata:
    """Return the metadata of an opened file; damaged parts are named in ``dropped``."""
    info = image.info
    boxes = _boxes_of(image)
    xmp = _as_bytes(info.get("xmp") or info.get("XML:com.adobe.xmp")) or boxes.xmp
    dropped = []
    try:
        exif = boxes.exif or _exif_of(image)
    except _DAMAGE:
        exif, damaged = None, True
    else:
        damaged = exif is not None and not exif_structure.is_sound(exif)
    if damaged:
        exif = None
        dropped.append("damaged EXIF")
    if xmp is not None and image.format in ("JPEG", "MPO") and b"HasExtendedXMP" in xmp:
        dropped.append("the extended part of the XMP")
    texts = _texts_of(image)
    comment = info.get("comment") if image.format in ("JPEG", "MPO", "GIF") else None
    return Metadata(
        exif=exif,
        icc=info.get("icc_profile") or boxes.icc,
        xmp=None if xmp is None else xmp_packet.without_other_parts(xmp),
        iptc=Iptc(boxes.iptc) if boxes.iptc else iptc_of(image),
        dpi=_resolution(info.get("dpi")),
        comment=_as_bytes(comment or texts.pop(_PNG_COMMENT, None)),
        texts=texts,
        dropped=tuple(dropped),
    )


def orientation_of(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, of an opened file that is not loaded yet.

    Loading would lose it: Pillow's TIFF reader turns the image while it loads.
    """
    try:
        exif = image.getexif()
        if boxed := _boxes_of(image).exif:
            exif = Image.Exif()
            exif.load(EXIF_HEADER + boxed)
        value = exif.get(ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if value in range(1, 9) else 1


def _boxes_of(image: Image.Image) -> Boxes:
    file = getattr(image, "fp", None)
    if image.format != "JPEG2000" or file is None:
        return Boxes()
    place = file.tell()
    file.seek(0)
    boxes = read_boxes(file.read())
    file.seek(place)
    return boxes


def _exif_of(image: Image.Image) -> bytes | None:
    stored = image.info.get("exif")
    if isinstance(stored, bytes) and stored:
        return stored.removeprefix(EXIF_HEADER) or None
    exif = image.getexif()
    if set(exif) <= {ORIENTATION}:
        return None  # Pillow takes it from XMP, which is reset, too
    if isinstance(image, TiffImageFile):
        exif = _without_storage(exif)
    return exif.tobytes().removeprefix(EXIF_HEADER) if exif else None


def _without_storage(tags: Image.Exif) -> Image.Exif:
    """Return the tags of a TIFF file that are EXIF."""
    exif = Image.Exif()
    for tag, value in tags.items():
        if tag not in STORAGE_TAGS:
            is_pointer = tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
            exif[tag] = dict(tags.get_ifd(tag)) if is_pointer else value
    return exif


def _resolution(dpi: object) -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (*_DAMAGE, ZeroDivisionError):
        return None
    sound = all(math.isfinite(value) and value > 0 for value in (horizontal, vertical))
    return (horizontal, vertical) if sound else None


def _texts_of(image: Image.Image) -> dict[str, str]:
    if image.format != "PNG":
        return {}
    return {
        key: str(value)
        for key, value in image.info.items()
        if isinstance(key, str) and isinstance(value, str) and not key.startswith(_NO_TEXTS)
    }


def _as_bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return value if isinstance(value, bytes) and value else None
