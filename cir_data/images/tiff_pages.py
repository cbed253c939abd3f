"""The pages of a TIFF file, and grey and colour samples in every layout, by tifffile.

Pillow reduces 16-bit colour to 8 bits and counts overviews and masks as pages; OpenCV misreads
planes, white-is-zero and premultiplied alpha without a warning.
"""

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
from tifffile import TiffFile, TiffFileError, TiffPage

from cir_data.images.channels import Samples, to_full_range, unpremultiplied
from cir_data.images.errors import DECODING_ERRORS

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""

_ERRORS = (*DECODING_ERRORS, RuntimeError, TiffFileError)
"""Errors of tifffile and imagecodecs on damaged data."""

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_PREMULTIPLIED, _UNASSOCIATED = 1, 2
_MOST_EXTRA = 16
"""More extra channels than this indicate a damaged header."""

_OF_A_SENSOR = {32803, 34892}
"""Photometric interpretations of camera raw files: a colour filter array, and linear raw."""

_DNG_VERSION = 50706
_PHOTOMETRIC = 262
_ORIENTATION = 274

_WITHOUT_LOSS = {1, 2, 3, 4, 5, 8, 32771, 32773, 32809, 32908, 32909, 32946, 34661, 34925, 34926}
_WITHOUT_LOSS |= {34933, 50000, 50013}
"""Lossless compressions."""

_BY_LIBTIFF = {2, 3, 4, 6, 7, 32771, 34661}
"""Fax and JPEG, which are left to Pillow."""

_PLAIN = {258: 8, 259: 1, 262: 1, 266: 1, 277: 1, 284: 1, 317: 1, 339: 1}
"""Tags of uncompressed 8-bit grey."""

_PLAIN_WITH_ALPHA = {**_PLAIN, 258: (8, 8), 277: 2, 338: 2, 339: (1, 1)}

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors that matter are raised


@dataclass(frozen=True)
class Page:
    """The page of full size in a TIFF file, and facts of all pages."""

    index: int
    pages: int
    broken: bool
    """Whether more pages are declared that cannot be read."""
    lossless: bool
    raw: bool
    """Whether the file is a camera raw file, whose pages are only previews."""
    readable: bool
    """Whether :func:`read_page` decodes its layout."""
    layout: str
    orientation: int
    width: int
    height: int


@dataclass(frozen=True)
class Decoded:
    """The samples of a page."""

    samples: Samples
    """(H, W) or (H, W, 3), of 8 or 16 bits."""
    alpha: Samples | None
    """(H, W), not premultiplied."""
    lost: float
    """Share of the picture that cannot be decoded, 0 to 1."""
    left_out: int
    """Number of channels that are neither colour nor alpha."""


def page_of(data: bytes) -> Page | None:
    """Find the page of full size; None if tifffile finds none."""
    try:
        with TiffFile(io.BytesIO(data)) as file:
            pages = list(_chain(file))
            full = [(i, p) for i, p in pages if not p.subfiletype & (_REDUCED | _MASK)]
            index, page = (full or pages)[0]
            if not (_is_size(page.imagewidth) and _is_size(page.imagelength)):
                return None
            return Page(
                index=index,
                pages=max(1, len(full)),
                broken=_is_broken(file, data, pages[-1][1]),
                lossless=all(int(p.compression) in _WITHOUT_LOSS for _, p in full or pages),
                raw=any(_is_raw(p) for _, p in pages),
                readable=_is_readable(page),
                layout=_layout(page),
                orientation=page.tags.valueof(_ORIENTATION, 1),
                width=page.imagewidth,
                height=page.imagelength,
            )
    except _ERRORS:
        return None


def read_page(data: bytes, index: int) -> Decoded:
    """Decode the samples of a page as far as possible.

    Other bit depths are scaled up to 8 or 16. Premultiplied colour is divided by alpha.

    Raises:
        ValueError: Nothing of it can be decoded.
    """
    with TiffFile(io.BytesIO(data)) as file:
        page = _page(file, index)
        stored, lost = _segments(data, page)
        bits = int(page.bitspersample)
        colours = 3 if page.photometric == _RGB else 1
        kinds = [int(kind) for kind in page.extrasamples]
    stored = np.moveaxis(stored[:, 0], 0, 2).reshape(*stored.shape[2:4], -1)
    samples = to_full_range(stored, bits)
    colour, extra = samples[..., :colours], samples[..., colours:]
    if page.photometric == _WHITE_IS_ZERO:
        colour = ~colour
    if extra.shape[2] == 1 and not kinds:
        kinds = [_UNASSOCIATED]  # old writers do not declare the meaning of a fourth sample
    alphas = [i for i, k in enumerate(kinds) if k in (_PREMULTIPLIED, _UNASSOCIATED)]
    alpha = extra[..., alphas[0]] if alphas and alphas[0] < extra.shape[2] else None
    if alpha is not None and kinds[alphas[0]] == _PREMULTIPLIED:
        colour = unpremultiplied(colour, alpha)
    return Decoded(
        samples=colour[..., 0] if colours == 1 else colour,
        alpha=alpha,
        lost=lost,
        left_out=extra.shape[2] - (alpha is not None),
    )


def with_plain_layout(data: bytes, index: int) -> bytes:
    """Return a file with the same metadata and a layout that Pillow can read.

    Raises:
        ValueError: They cannot be changed.
    """
    buffer = io.BytesIO(data)
    try:
        with TiffFile(buffer, mode="r+") as file:
            tags = _page(file, index).tags
            for code, value in (_PLAIN_WITH_ALPHA if 338 in tags else _PLAIN).items():
                tag = tags.get(code)
                if tag is not None:
                    tag.overwrite(value, dtype="H")
            return buffer.getvalue()
    except _ERRORS as error:
        raise ValueError(str(error)) from error


def _chain(file: TiffFile) -> Iterator[tuple[int, TiffPage]]:
    """Yield the pages until the chain ends, breaks, or repeats a page."""
    seen: set[int] = set()
    for index in count():
        try:
            page = _page(file, index)
        except _ERRORS:
            if index == 0:
                raise
            return
        if page.offset in seen:
            return
        seen.add(page.offset)
        yield index, page


def _is_broken(file: TiffFile, data: bytes, last: TiffPage) -> bool:
    """Whether the last readable page declares another one after it."""
    form = file.tiff
    tags = int.from_bytes(data[last.offset : last.offset + form.tagnosize], _order(form.byteorder))
    end = last.offset + form.tagnosize + tags * form.tagsize
    following = int.from_bytes(data[end : end + form.offsetsize], _order(form.byteorder))
    return following > len(data)


def _order(sign: str) -> Literal["little", "big"]:
    return "little" if sign == "<" else "big"


def _page(file: TiffFile, index: int) -> TiffPage:
    page = file.pages[index]
    assert isinstance(page, TiffPage)
    return page


def _is_size(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _is_raw(page: TiffPage) -> bool:
    if page.photometric in _OF_A_SENSOR or _DNG_VERSION in page.tags:
        return True
    try:
        below = [] if page.pages is None else list(page.pages)
    except _ERRORS:
        return False
    return any(isinstance(p, TiffPage) and p.photometric in _OF_A_SENSOR for p in below)


def _is_readable(page: TiffPage) -> bool:
    bits = page.bitspersample
    extra = page.samplesperpixel - (3 if page.photometric == _RGB else 1)
    return (
        page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        and _PHOTOMETRIC in page.tags
        and int(page.compression) not in _BY_LIBTIFF
        and isinstance(bits, int)
        and 2 <= bits <= 16
        and page.dtype is not None
        and page.dtype.kind == "u"
        and page.imagedepth == 1
        and 0 <= extra <= _MOST_EXTRA
        and (extra == 1 or extra <= len(page.extrasamples))
    )


def _layout(page: TiffPage) -> str:
    bits = page.bitspersample
    kind = {"i": "signed ", "f": "floating-point ", "c": "complex "}
    number = kind.get("" if page.dtype is None else page.dtype.kind, "")
    return (
        f"{bits}-bit {number}{getattr(page.photometric, 'name', page.photometric)},"
        f" {page.samplesperpixel} samples,"
        f" compression {getattr(page.compression, 'name', page.compression)}"
    )


def _segments(data: bytes, page: TiffPage) -> tuple[Samples, float]:
    """Decode strips or tiles to the shape ``page.shaped``; also return the share that is lost."""
    dtype = page.dtype
    assert dtype is not None
    result = np.zeros(page.shaped, dtype)
    _, depth, height, width, _ = page.shaped
    expected = int(np.prod(page.chunked))
    found, error = 0.0, None
    for index, (offset, size) in enumerate(
        zip(page.dataoffsets[:expected], page.databytecounts[:expected], strict=False)
    ):
        stored = data[offset : offset + size]
        share = len(stored) / size if size else 0.0
        if page.compression == 1:
            stored = stored.ljust(size, b"\0")
        try:
            segment, (plane, z, row, column, _), shape = page.decode(stored, index)
            if segment is None:
                continue
            result[plane, z : z + shape[0], row : row + shape[1], column : column + shape[2]] = (
                segment[: depth - z, : height - row, : width - column]
            )
        except _ERRORS as reason:
            error = reason
            continue
        found += share
    if not found:
        raise ValueError(f"none of its data can be decoded ({error or 'they are missing'})")
    return result, 1 - found / expected
