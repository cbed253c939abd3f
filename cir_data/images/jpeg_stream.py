"""The marker structure of a JPEG file: where its picture ends, and what is damaged.

libjpeg replaces what it cannot decode by zero coefficients and warns, but Pillow hides the
warnings: a file cut in half looks like an intact one with a grey lower half. simplejpeg raises the
warnings as errors.
"""

import re
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from PIL import Image

_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""In scan data, FF 00 encodes the byte FF, and FF D0 to FF D7 are restart markers."""

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_ALONE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a segment."""

_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15, and SOF55 of JPEG-LS."""

_NEEDED = {*range(0xC0, 0xE0), 0xE2, 0xEE, 0xF7}
"""Everything but metadata; APP2 has the colour profile, APP14 the colour space."""

_NOTHING = 16
"""More bits than a coefficient has."""

_OWN_ZEROS = 8
"""Number of zeros at the end of a scan that may belong to it."""

_PADDING = 64
"""Fewer bytes than this between a scan's last block and the next marker are padding."""

_AFTER_THE_END = b"\0\xff\r\n"
"""Padding after the end marker."""

_FIRST_ROWS = 64
"""An MCU has up to 32 rows, and libjpeg smooths progressive ones into the next 32 rows."""

_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker")


@dataclass(frozen=True)
class JpegStream:
    """The first picture of a JPEG file, from its first marker to its end marker."""

    data: bytes
    """All complete segments and scans; an end marker is added if it is missing."""
    whole: bool
    """Whether the file has its end marker."""
    as_stored: bool
    """Whether there were no stray bytes between the segments."""
    frame: int | None
    """The last byte of the SOF marker."""
    precision: int
    """Bits of a sample."""
    components: frozenset[int]
    finished: frozenset[int]
    """Components whose scans contain all coefficients to the last bit."""
    has_data: bool
    """Whether any scan has data."""
    last_scan: tuple[int, int]
    """Start and end of the last scan in ``data``."""
    follows: int
    """Bytes after the end marker, apart from padding: a second picture, a video."""

    def without_metadata(self) -> "JpegStream":
        """Keep only the segments that decoding and colour need."""
        return replace(_walk(self.data, _NEEDED), whole=self.whole, follows=self.follows)

    def without_zeros(self, kept: int = _OWN_ZEROS) -> "JpegStream":
        """Remove a run of zeros at the end of the last scan, except for the first ``kept``."""
        start, end = self.last_scan
        scan = self.data[start:end]
        length = len(scan.rstrip(b"\0"))
        if scan[:length].endswith(b"\xff"):  # FF 00 encodes the byte FF
            length += 1
        scan = scan[: length + kept]
        return replace(
            self,
            data=self.data[:start] + scan + self.data[end:],
            last_scan=(start, start + len(scan)),
        )

    @property
    def is_arithmetic(self) -> bool:
        """Whether it uses arithmetic coding, where libjpeg does not notice a missing end."""
        return self.frame is not None and self.frame in range(0xC9, 0xD0)

    @property
    def rarity(self) -> str | None:
        """Name of a kind that libjpeg, or some version of it, does not decode; else None."""
        if self.frame == 0xF7:
            return "a JPEG-LS picture"
        if self.frame in (0xC3, 0xCB):
            return f"a lossless {self.precision}-bit JPEG"
        if self.frame in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF):
            return "a hierarchical JPEG"
        if self.precision != 8:
            return f"a {self.precision}-bit JPEG"
        return None

    @property
    def is_supported(self) -> bool:
        """Whether Pillow's libjpeg may decode it; since 3.0 also lossless files."""
        return self.precision == 8 and (self.rarity is None or self.frame == 0xC3)


@dataclass(frozen=True)
class Damage:
    """Damage to the data of a JPEG file."""

    remains: bytes
    """A file with the decodable part."""
    warning: str | None
    """The warning of libjpeg; None if the file only ends too early."""


class _UncheckedError(Exception):
    """TurboJPEG cannot check the file: it does not know rare samplings such as 4:1:0."""


def parse(data: bytes) -> JpegStream:
    """Walk through the markers of a JPEG file."""
    return _walk(data, None)


def damage_of(stream: JpegStream) -> Damage | None:
    """Return the damage of a picture that libjpeg can decode; None if it is intact.

    Bytes after the end marker, between segments, and padding after a scan are harmless. A file with
    a sampling that TurboJPEG does not know (4:1:0) counts as intact if it has an end marker.
    """
    stripped = stream.without_zeros()
    try:
        warning = _warning(stream.data)
        if warning is not None and _is_padding(warning):
            # failed copies often contain zeros, which decode to some picture
            warning = _warning(stripped.data)
            if warning is not None and _is_padding(warning, _PADDING):
                warning = None
        whole = stream.components == stream.finished and (stream.whole or not stream.is_arithmetic)
    except _UncheckedError:
        warning, whole = None, stream.whole
    if warning is not None:
        return Damage(stripped.data, warning)
    return None if whole else Damage(stripped.data, None)


def undecoded_rows(image: Image.Image) -> int:
    """Return how many rows at the end of a damaged picture libjpeg has filled in.

    Zero coefficients decode to 128 in each component, also of YCbCr; Pillow inverts CMYK. If even
    the first row of blocks is missing, all rows count.
    """
    samples = np.asarray(image)
    fill = samples[-1, -1]
    if not np.isin(fill, (127, 128)).all():
        return 0
    filled = (samples == fill).reshape(*samples.shape[:2], -1).all(axis=2)
    rows = filled.all(axis=1)
    nothing = filled[:8, -1].all() and len(rows) > 8 and rows[_FIRST_ROWS:].all()
    if nothing or rows.all():
        return len(rows)
    return int(np.argmin(rows[::-1]))


def _warning(data: bytes) -> str | None:
    """Return the first warning of libjpeg while it decodes a file."""
    try:
        colours = simplejpeg.decode_jpeg_header(data)[2]
    except ValueError as error:
        raise _UncheckedError from error
    target = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(colours, "RGB")
    try:
        simplejpeg.decode_jpeg(data, target, min_factor=8)  # decodes everything, but renders little
    except ValueError as error:
        return str(error)
    return None


def _is_padding(warning: str, limit: int | None = None) -> bool:
    found = _EXTRANEOUS.search(warning)
    return found is not None and (limit is None or int(found[1]) < limit)


def _walk(data: bytes, kept: set[int] | None) -> JpegStream:
    pieces = [data[:2]]
    length = position = 2
    frame, last_scan = b"", (2, 2)
    whole, as_stored, has_data = False, kept is None, False
    lacking: dict[int, dict[int, int]] = {}  # missing bits by component and coefficient
    while found := _MARKER.search(data, position):
        marker = found[1][0]
        as_stored &= found.start() == position
        position = found.end()
        if marker == _EOI:
            whole = True
            break
        if marker == _SOI:
            break  # another picture begins: the end of this one is missing
        if marker in _ALONE:
            as_stored = False
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        if end > len(data) or end < position + 2:
            break
        segment = b"\xff" + found[1] + data[position:end]
        position = end
        if marker in _FRAMES and not frame:
            frame = segment
            lacking = {component: dict.fromkeys(range(64), _NOTHING) for component in frame[10::3]}
        if kept is None or marker in kept:
            pieces.append(segment)
            length += len(segment)
        if marker == _SOS:
            found = _END_OF_SCAN.search(data, end)
            position = found.start() if found else len(data)
            pieces.append(data[end:position])
            last_scan = (length, length + position - end)
            length = last_scan[1]
            if position > end:
                has_data = True
                _note_scan(segment, lacking, frame[1:2] in (b"\xc3", b"\xcb"))
    pieces.append(b"\xff" + bytes([_EOI]))
    return JpegStream(
        data=b"".join(pieces),
        whole=whole,
        as_stored=as_stored,
        frame=frame[1] if frame else None,
        precision=frame[4] if len(frame) > 4 else 8,
        components=frozenset(lacking),
        finished=frozenset(c for c, bits in lacking.items() if not any(bits.values())),
        has_data=has_data,
        last_scan=last_scan,
        follows=len(data[position:].strip(_AFTER_THE_END)) if whole else 0,
    )


def _note_scan(header: bytes, lacking: dict[int, dict[int, int]], lossless: bool) -> None:
    """Record how many bits of each coefficient are still missing after a scan."""
    count = header[4] if len(header) > 4 else 0
    if len(header) < 8 + 2 * count:
        return
    first, last, bits = header[-3], header[-2], header[-1] & 15
    if lossless:
        first, last, bits = 0, 63, 0  # here the numbers have another meaning
    for component in header[5 : 5 + 2 * count : 2]:
        if component in lacking:
            lacking[component].update(dict.fromkeys(range(first, min(last, 63) + 1), bits))
