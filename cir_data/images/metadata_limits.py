"""Which metadata each format can hold."""

from dataclasses import replace

from cir_data.images.exif import EXIF_HEADER, has_tag
from cir_data.images.metadata import Metadata
from cir_data.images.xmp import with_iptc

PHOTOSHOP_HEADER = b"Photoshop 3.0\0"
"""Stands before Photoshop's image resources in JPEG."""

METRES_PER_INCH = 0.0254

_SEGMENT = 65533
"""Bytes that a segment of a JPEG file holds."""

_PNG_TEXT = 1 << 20
"""Bytes of a profile or text beyond which Pillow, and so this package, refuses a PNG file."""

_LIMITS: dict[str, dict[str, int]] = {
    "jpeg": {
        "exif": _SEGMENT - len(EXIF_HEADER),
        "xmp": _SEGMENT - len("http://ns.adobe.com/xap/1.0/ "),
        "iptc": _SEGMENT - len(PHOTOSHOP_HEADER) - 13,  # the resource's header and padding
        "icc": 255 * (_SEGMENT - 14),
        "comment": _SEGMENT,
    },
    "png": {"icc": _PNG_TEXT, "xmp": _PNG_TEXT, "comment": _PNG_TEXT},
}
"""Most bytes of each part of the metadata."""

_PARTS = {
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "icc": "the colour profile",
    "comment": "the comment",
}

_PNG_KEYWORD = 79

_X_RESOLUTION = 282

_DPI = {
    "jpeg": (0.5, (1 << 16) - 1),
    "png": (METRES_PER_INCH / 2, ((1 << 31) - 1) * METRES_PER_INCH),
    "tiff": (1e-4, (1 << 32) - 1),
}
"""Lowest and highest resolution."""


def fit_metadata(metadata: Metadata, file_format: str) -> tuple[Metadata, tuple[str, ...]]:
    """Return the metadata that a format can hold, and name what is dropped.

    Args:
        metadata: The metadata of a picture.
        file_format: A key of :data:`cir_data.images.formats.SUFFIXES`.

    Returns:
        The metadata, and what is dropped, in words that follow "dropped".

    Example:
        >>> kept, dropped = fit_metadata(Metadata(comment=b"Lisbon"), "webp")
        >>> kept.comment, dropped
        (None, ('the comment, which webp files do not have',))
    """
    dropped: list[str] = []
    if metadata.iptc and file_format in ("png", "webp"):
        xmp, lost = with_iptc(metadata.xmp, metadata.iptc)
        metadata = replace(metadata, xmp=xmp, iptc=None)
        dropped += [f"IPTC's {', '.join(lost)}"] if lost else []
    for name, limit in _LIMITS.get(file_format, {}).items():
        value = getattr(metadata, name)
        size = len(value.data if name == "iptc" and value else value or b"")
        if size > limit:
            metadata = replace(metadata, **{name: None})  # type: ignore[arg-type]
            dropped.append(
                f"{_PARTS[name]} ({size / 1e3:.0f} kB, while {file_format} files hold"
                f" {limit / 1e3:.0f} kB)"
            )
    if metadata.xmp and file_format == "png" and not _is_utf_8(metadata.xmp):
        metadata = replace(metadata, xmp=None)
        dropped.append("XMP that is not UTF-8")
    texts = {k: v for k, v in metadata.texts.items() if file_format == "png" and _fits(k, v)}
    if lost := sorted(metadata.texts.keys() - texts.keys()):
        metadata = replace(metadata, texts=texts)
        dropped.append(f"PNG's texts {', '.join(lost)}")
    if metadata.comment and file_format in ("webp", "tiff"):
        metadata = replace(metadata, comment=None)
        dropped.append(f"the comment, which {file_format} files do not have")
    if metadata.dpi and file_format == "webp":
        if not (metadata.exif and has_tag(metadata.exif, _X_RESOLUTION)):
            dropped.append("the resolution, which webp files state only in EXIF")
        metadata = replace(metadata, dpi=None)
    elif metadata.dpi:
        least, most = _DPI[file_format]
        if not all(least <= dpi <= most for dpi in metadata.dpi):
            dropped.append(f"the resolution of {metadata.dpi[0]:g} x {metadata.dpi[1]:g} dpi")
            metadata = replace(metadata, dpi=None)
    return metadata, tuple(dropped)


def _is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fits(keyword: str, text: str) -> bool:
    latin = all(ord(letter) < 256 for letter in keyword)
    return latin and 0 < len(keyword) <= _PNG_KEYWORD and len(text.encode()) <= _PNG_TEXT
