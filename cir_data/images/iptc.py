"""IPTC captions and keywords (IIM), which JPEG stores in Photoshop's image resources."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

_RESOURCE = 0x0404
"""Number of IPTC's data among Photoshop's image resources."""

_TIFF_TAG = 33723
_PNG_KEY = "Raw profile type iptc"
_SIGNATURE = b"8BIM"
_MARKER = 0x1C
_CHARACTER_SET = (1, 90)
_UTF_8 = b"\x1b%G"
_BINARY = frozenset({0, 200, 201, 202})
"""Data sets of record 2 that are no text: its version and previews."""

_NAMES = {
    4: "genre",
    10: "urgency",
    12: "subject code",
    15: "category",
    20: "supplemental category",
    55: "date created",
    60: "time created",
    62: "digital creation date",
    63: "digital creation time",
    65: "program",
    92: "sublocation",
    100: "country code",
    118: "contact",
}
"""Names of data sets that other formats cannot hold."""


@dataclass(frozen=True)
class Iptc:
    """IPTC data as stored in a file."""

    data: bytes
    """The data sets, without the resource around them."""

    @cached_property
    def texts(self) -> dict[int, list[str]]:
        """The texts of record 2, by the numbers of their data sets."""
        found: dict[int, list[str]] = {}
        sets = list(_data_sets(self.data))
        is_utf_8 = any(key == _CHARACTER_SET and value == _UTF_8 for key, value in sets)
        for (record, number), value in sets:
            if record == 2 and number not in _BINARY:
                found.setdefault(number, []).append(_decoded(value, is_utf_8))
        return found

    def name(self, number: int) -> str:
        """Return the name of a data set, for messages."""
        return _NAMES.get(number, f"data set {number}")

    def as_resources(self) -> bytes:
        """Return the data as a Photoshop image resource for JPEG's APP13 segment."""
        padding = b"\0" * (len(self.data) % 2)
        head = _SIGNATURE + struct.pack(">HHI", _RESOURCE, 0, len(self.data))
        return head + self.data + padding


def iptc_of(image: Image.Image) -> Iptc | None:
    """Return the IPTC data of an opened JPEG, TIFF or PNG file."""
    resources = image.info.get("photoshop")
    data = resources.get(_RESOURCE) if isinstance(resources, dict) else None
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        data = _as_bytes(tags.get(_TIFF_TAG), getattr(tags, "_endian", "<"))
    if data is None and isinstance(text := image.info.get(_PNG_KEY), str):
        data = _from_raw_profile(text)
    return Iptc(data) if data else None


def _as_bytes(value: object, order: str) -> bytes | None:
    """Return the bytes of a TIFF tag, which some programs write as 32-bit numbers."""
    if isinstance(value, tuple) and all(isinstance(v, int) and 0 <= v < 1 << 32 for v in value):
        return struct.pack(f"{order}{len(value)}I", *value)
    return value if isinstance(value, bytes) else None


def _from_raw_profile(text: str) -> bytes | None:
    """Decode ImageMagick's profiles in PNG texts: name, length, hexadecimal bytes."""
    try:
        _, _, *lines = text.strip().split("\n")
        data = bytes.fromhex("".join(lines))
    except ValueError:
        return None
    start = data.find(_SIGNATURE + struct.pack(">H", _RESOURCE))
    if start < 0:
        return data
    name = data[start + 6] if len(data) > start + 6 else 0
    begin = start + 6 + (name + 2) // 2 * 2 + 4
    return data[begin : begin + int.from_bytes(data[begin - 4 : begin], "big")]


def _data_sets(data: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    offset = 0
    while offset + 5 <= len(data) and data[offset] == _MARKER:
        record, number, size = struct.unpack_from(">BBH", data, offset + 1)
        if size & 0x8000:
            return  # an extended data set holds no text
        yield (record, number), data[offset + 5 : offset + 5 + size]
        offset += 5 + size


def _decoded(value: bytes, is_utf_8: bool) -> str:
    """Decode a text; many programs write UTF-8 without declaring it."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("utf-8", "replace") if is_utf_8 else value.decode("latin-1")
    return "".join(c for c in text if c.isprintable() or c in "\n\t").strip("\0")
