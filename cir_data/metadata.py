"""What an image file says beside its pixels: EXIF, colour profile, XMP, resolution."""

import re
import struct
from dataclasses import dataclass, replace

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

_EXIF_HEADER = b"Exif\0\0"

_ORIENTATION = int(ExifTags.Base.Orientation)

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[1-8]", re.IGNORECASE)

_OF_THE_PIXELS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291}
    | {292, 293, 297, 301, 317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341}
    | {347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 700, 33723, 34377}
    | {34675, 37724}
)
"""Tags of a TIFF file that describe how it is stored, or that are kept apart."""


@dataclass(frozen=True)
class Metadata:
    """What is carried from an input to its output."""

    exif: bytes | None = None
    """A TIFF structure, without JPEG's header ``Exif``."""
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    """JPEG's, which other formats do not have."""

    def upright(self) -> "Metadata":
        """Return the same with orientation 1, as fits pixels that were turned."""
        return replace(
            self,
            exif=None if self.exif is None else _with_orientation_1(self.exif),
            xmp=None if self.xmp is None else _XMP_ORIENTATION.sub(rb"\g<1>1", self.xmp),
        )


def metadata_of(image: Image.Image) -> Metadata:
    """Return what an opened file says, as it is stored."""
    info = image.info
    dpi = info.get("dpi")
    return Metadata(
        exif=_exif_of(image),
        icc=info.get("icc_profile") or None,
        xmp=_as_bytes(info.get("xmp") or info.get("XML:com.adobe.xmp")),
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(dpi) else None,
        comment=_as_bytes(info.get("comment")) if image.format in ("JPEG", "MPO") else None,
    )


def orientation_of(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, of an opened file that is not loaded yet.

    Pillow's TIFF reader turns the image as it loads it.
    """
    value = image.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _exif_of(image: Image.Image) -> bytes | None:
    stored = image.info.get("exif")
    if isinstance(stored, bytes) and stored:
        return stored.removeprefix(_EXIF_HEADER) or None
    exif = image.getexif()
    if set(exif) <= {_ORIENTATION}:
        return None  # Pillow takes it from XMP, where it is reset too
    if isinstance(image, TiffImageFile):
        exif = _without_storage(exif)
    return exif.tobytes().removeprefix(_EXIF_HEADER) if exif else None


def _without_storage(tags: Image.Exif) -> Image.Exif:
    """Return what of a TIFF file's tags is EXIF."""
    exif = Image.Exif()
    for tag, value in tags.items():
        if tag not in _OF_THE_PIXELS:
            is_pointer = tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
            exif[tag] = dict(tags.get_ifd(tag)) if is_pointer else value
    return exif


def _as_bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) and value else None


def _with_orientation_1(exif: bytes) -> bytes:
    """Overwrite the orientation where it stands: everything else keeps its place and its bytes.

    Maker notes hold offsets, so that a structure written anew would damage them.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return exif
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return exif
    changed = bytearray(exif)
    (count,) = struct.unpack_from(order + "H", exif, start)
    for offset in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, offset)
        if tag == _ORIENTATION:
            value = order + ("I" if kind == 4 else "H")
            struct.pack_into(value, changed, offset + 8, 1)
    return bytes(changed)
