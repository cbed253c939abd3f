"""Damaged files: what is left of a picture is read, and what is missing is told."""

import io
import re
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from data_tools import PILLOW, encoded
from PIL import Image

from cir_data.images import jpeg_stream
from cir_data.images.errors import UnreadableImage
from cir_data.images.reading import TruncatedImage, examine, read
from cir_data.images.srgb import srgb_profile

RNG = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[:160, :96]
PICTURE = (np.dstack([ROWS, COLUMNS * 2, 255 - ROWS]) + RNG.integers(-9, 9, (160, 96, 3))).clip(
    0, 255
)
PICTURE = PICTURE.astype(np.uint8)
END = b"\xff\xd9"


def jpeg(mode="RGB", **arguments):
    return encoded(Image.fromarray(PICTURE).convert(mode), "JPEG", quality=90, **arguments)


def share(warning):
    return int(re.search(r"(\d+) %", warning)[1]) / 100


JPEGS = {
    "baseline": jpeg(),
    "grey": jpeg("L"),
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "CMYK": jpeg("CMYK"),
    "optimised": jpeg(optimize=True),
    "restart": jpeg(restart_marker_rows=1),
    "progressive": jpeg(progressive=True),
    "grey progressive": jpeg("L", progressive=True),
}
CUTS = {
    "cut": lambda data, at: data[:at],
    "cut, with an end marker": lambda data, at: data[:at] + END,
    "zeros": lambda data, at: data[:at] + bytes(len(data) - at),
    "zeros, with an end marker": lambda data, at: data[:at] + bytes(len(data) - at - 2) + END,
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("cut", CUTS)
def test_half_a_jpeg_is_told_and_refused_if_strict(kind, cut):
    whole = JPEGS[kind]
    data = CUTS[cut](whole, len(whole) * 55 // 100)
    picture, full = read(data, "in"), read(whole, "in")
    told = next(w for w in picture.warnings if "truncated" in w)
    if "progressive" in kind:
        assert np.abs(picture.samples.astype(int) - full.samples).mean() < 12
    else:
        missing = share(told)
        assert 0.2 < missing < 0.6
        rows = int((1 - missing) * 160) // 16 * 16 - 16
        assert np.array_equal(picture.samples[: rows - 1], full.samples[: rows - 1])
        assert len(np.unique(picture.samples[-int(missing * 160) + 2 :])) == 1
    with pytest.raises(TruncatedImage, match="in: truncated or damaged"):
        read(data, "in", strict=True)


def behind_first_segment(data, inserted):
    end = 4 + int.from_bytes(data[4:6], "big")
    return data[:end] + inserted + data[end:]


HARMLESS = {
    "trailer": lambda data: data + b"SEFT" + bytes(99) + b"\xff\xda\x12",
    "another picture": lambda data: data + data,
    "no end marker": lambda data: data[:-2],
    "zeros before the end marker": lambda data: data[:-2] + bytes(500) + END,
    "bytes before the end marker": lambda data: data[:-2] + b"abc" + END,
    "bytes between segments": lambda data: behind_first_segment(data, b"\0\1abc"),
    "filled markers": lambda data: behind_first_segment(data, b"\xff\xff\xff"),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("change", HARMLESS)
def test_a_sound_jpeg_is_sound_whatever_stands_around_it(kind, change):
    picture = read(HARMLESS[change](JPEGS[kind]), "in", strict=True)
    assert not any("truncated" in warning for warning in picture.warnings)
    assert np.array_equal(picture.samples, read(JPEGS[kind], "in").samples)


def test_a_jpeg_cut_within_a_marker_keeps_the_scans_before():
    data = JPEGS["progressive"]
    scans = [m.start() for m in re.finditer(rb"\xff\xda", data)]
    within = data[: scans[5] + 5]
    picture = read(within, "in")
    assert np.abs(picture.samples.astype(int) - PICTURE).mean() < 20
    assert "detail" in picture.warnings[0]
    # the same between two scans, with an end marker: no decoder notices it
    with pytest.raises(TruncatedImage, match="detail"):
        read(data[: scans[5]] + END, "in", strict=True)


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey"])
def test_a_jpeg_without_a_row_of_blocks_fails(kind):
    data = JPEGS[kind]
    start = data.index(b"\xff\xda") + 14
    for end in (start, start + 2):
        assert examine(data[:end], "in").format == "JPEG"
        with pytest.raises(UnreadableImage, match="nothing of it can be decoded"):
            read(data[:end], "in")
    within_the_header = data[: start - 9]
    if PILLOW < 13:  # which does not open it
        with pytest.raises(UnreadableImage, match=r"a damaged JPEG \(JPEG: Truncated File Read\)"):
            read(within_the_header, "in")
        return
    assert examine(within_the_header, "in").format == "JPEG"
    with pytest.raises(UnreadableImage, match="nothing of it can be decoded"):
        read(within_the_header, "in")


def test_the_side_that_is_missing_is_that_of_the_upright_picture():
    exif = Image.Exif()
    for orientation, side in [(1, "lower"), (3, "upper"), (6, "left"), (8, "right")]:
        exif[0x0112] = orientation
        data = jpeg(exif=exif)
        assert f"the {side} " in read(data[: len(data) // 2], "in").warnings[0]


def test_samplings_without_a_name_are_judged_by_their_end():
    """4:1:0 by its marker: TurboJPEG has no name for two rows and four columns."""
    data = bytearray(jpeg("L"))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = 0x42
    assert jpeg_stream.damage_of(jpeg_stream.parse(bytes(data))) is None
    data = jpeg(subsampling=2)
    frame = data.index(b"\xff\xc0")
    odd = data[: frame + 14] + b"\x12" + data[frame + 15 :]
    assert jpeg_stream.damage_of(jpeg_stream.parse(odd)) is None
    assert jpeg_stream.damage_of(jpeg_stream.parse(odd[: len(odd) // 2])) is not None


def chunks_of(data):
    offset, chunks = 8, []
    while offset < len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        chunks.append((kind, data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    return chunks


def png_of(chunks, broken=()):
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        checksum = zlib.crc32(kind + content) ^ (kind in broken)
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return data


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("cut", list(CUTS)[::2])
def test_half_a_png_is_told_and_refused_if_strict(bits, cut):
    samples = PICTURE if bits == 8 else PICTURE.astype(np.uint16) * 257
    whole = imagecodecs.png_encode(samples)
    data = CUTS[cut](whole, len(whole) // 2)
    picture = read(data, "in")
    missing = share(picture.warnings[0])
    rows = int((1 - missing) * 160) - 9  # zeros inflate to a few rows
    assert 0.4 < missing < 0.6
    assert np.array_equal(picture.samples[:rows], samples[:rows])
    assert not picture.samples[-int(missing * 160) + 2 :].any()
    assert picture.warnings[0].startswith("truncated or damaged: the lower ")
    with pytest.raises(TruncatedImage, match="in: truncated"):
        read(data, "in", strict=True)
    with pytest.raises(UnreadableImage, match="nothing of it"):
        read(whole[:50], "in")


def test_a_png_without_its_last_chunk_is_sound():
    data = encoded(Image.fromarray(PICTURE), "PNG")
    assert np.array_equal(read(data[:-12], "in", strict=True).samples, PICTURE)


def compressed(size):
    return b"name\0\0" + zlib.compress(bytes(size))


XMP_HEAD = b"XML:com.adobe.xmp\0\1\0\0\0"


@pytest.mark.parametrize(
    ("kind", "content", "what"),
    [
        (b"iCCP", compressed(2**21), "colour profile"),
        (b"iCCP", b"name\0\0junk", "colour profile"),
        (b"iCCP", b"name\0\7junk", "colour profile"),
        (b"zTXt", compressed(2**21), "text"),
        (b"iTXt", XMP_HEAD + zlib.compress(bytes(2**21)), "text or XMP"),
        (b"iTXt", XMP_HEAD + b"junk", "text or XMP"),
        (b"eXIf", b"junk", "EXIF"),
        (b"pHYs", None, "chunk pHYs"),
        (b"tEXt", None, "text"),
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_metadata_of_a_png_never_costs_the_picture(kind, content, what, bits):
    samples = PICTURE if bits == 8 else PICTURE.astype(np.uint16) * 257
    first, *others = chunks_of(imagecodecs.png_encode(samples))
    good = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")
    broken = () if content is not None else (kind,)
    data = png_of([first, (kind, content or b"a\0bcdefgh"), good, *others], broken)
    assert examine(data, "in").lossless
    picture = read(data, "in", strict=True)
    assert np.array_equal(picture.samples, samples)
    assert picture.warnings == (f"its {what} is damaged or too large and dropped",)
    assert picture.metadata.xmp == b"<x/>"


def test_a_wrong_checksum_of_pixels_is_told():
    chunks = chunks_of(encoded(Image.fromarray(PICTURE), "PNG"))
    picture = read(png_of(chunks, broken=(b"IDAT",)), "in")
    assert np.array_equal(picture.samples, PICTURE)
    assert "checksum" in picture.warnings[0]


def test_xmp_behind_the_pixels_of_a_png_is_found():
    *chunks, end = chunks_of(encoded(Image.fromarray(PICTURE), "PNG"))
    late = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")
    assert read(png_of([*chunks, late, end]), "in").metadata.xmp == b"<x/>"


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "PNG"])
def test_exif_that_is_no_exif_is_left_out(file_format):
    data = encoded(
        Image.fromarray(PICTURE), file_format, icc_profile=srgb_profile(), exif=b"Exif\0\0junk"
    )
    picture = read(data, "in", strict=True)
    assert picture.samples.shape == (160, 96, 3)
    assert picture.metadata.exif is None
    assert picture.metadata.icc == srgb_profile()
    told = (*picture.warnings, *picture.metadata.dropped)
    assert sum("damaged" in line and "EXIF" in line for line in told) == 1


def test_a_broken_segment_of_a_jpeg_never_costs_the_picture():
    data = jpeg(icc_profile=srgb_profile())
    broken = data[:2] + b"\xff\xe0\0\x08JFIF\0\1" + data[2:]
    picture = read(broken, "in", strict=True)
    assert np.array_equal(picture.samples, read(data, "in").samples)
    assert picture.metadata.icc == srgb_profile()
    assert "metadata is damaged" in picture.warnings[0]


def test_a_broken_segment_does_not_hide_that_the_end_is_missing():
    data = encoded(Image.fromarray(PICTURE), "JPEG", quality=90, subsampling=2)
    frame = data.index(b"\xff\xc0")
    odd = data[: frame + 14] + b"\x12" + data[frame + 15 :]  # a sampling without a name
    stream = jpeg_stream.parse(odd[: len(odd) // 2])
    assert jpeg_stream.damage_of(stream.without_metadata()) is not None


def test_webp_is_whole_or_nothing():
    image = Image.fromarray(PICTURE)
    data = encoded(image, "WEBP", xmp=b"<x/>" * 99)
    with pytest.raises(
        UnreadableImage, match=r"WebP is decoded whole or not at all, and .* missing"
    ):
        read(data[: len(data) // 2], "in")
    picture = read(data[:-99], "in", strict=True)  # in its XMP
    assert np.array_equal(picture.samples, read(data, "in").samples)
    assert "metadata is damaged" in picture.warnings[0]


@pytest.mark.parametrize("file_format", ["WEBP", "AVIF"])
def test_zeros_at_the_end_are_noticed(file_format):
    data = encoded(Image.fromarray(PICTURE), file_format)
    half = len(data) // 2
    zeroed = data[:half] + bytes(len(data) - half)
    assert "only zeros" in read(zeroed, "in").warnings[0]
    with pytest.raises(TruncatedImage):
        read(zeroed, "in", strict=True)
    blank = encoded(Image.new("RGB", (2000, 2000)), file_format)
    assert not read(blank, "in", strict=True).warnings


def tiff(**arguments):
    buffer = io.BytesIO()
    arguments = {"photometric": "rgb", "rowsperstrip": 16, "metadata": None, **arguments}
    tifffile.imwrite(buffer, **arguments)
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
def test_half_a_tiff_is_told_and_refused_if_strict(bits, compression):
    samples = PICTURE if bits == 8 else PICTURE.astype(np.uint16) * 257
    whole = tiff(data=samples, compression=compression)
    data = whole[: len(whole) // 2]
    picture = read(data, "in")
    assert 0.4 < share(picture.warnings[0]) < 0.65
    assert np.array_equal(picture.samples[:48], samples[:48])
    assert not picture.samples[96:].any()
    with pytest.raises(TruncatedImage, match="in: truncated"):
        read(data, "in", strict=True)
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        start = file.pages[0].dataoffsets[0]
    with pytest.raises(UnreadableImage, match="nothing of it"):
        read(whole[:start], "in")


def test_a_damaged_strip_does_not_cost_the_others():
    whole = bytearray(tiff(data=PICTURE, compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        offset = file.pages[0].dataoffsets[2]
    whole[offset : offset + 99] = bytes(99)
    picture = read(bytes(whole), "in")
    assert np.array_equal(picture.samples[48:], PICTURE[48:])
    assert "10 %" in picture.warnings[0]


def test_a_tiff_that_ends_before_its_directory_is_named():
    data = encoded(Image.fromarray(PICTURE), "TIFF", compression="tiff_lzw")
    with pytest.raises(UnreadableImage, match="directory is damaged or lies beyond the end"):
        examine(data[: len(data) // 2], "in")


@pytest.mark.parametrize(
    ("file_format", "side"),
    [("BMP", "upper"), ("PPM", "lower"), ("TGA", "upper"), ("PCX", "lower"), ("JPEG2000", "lower")],
)
def test_what_pillow_decodes_of_half_a_file_is_kept(file_format, side):
    arguments = {"tile_size": (96, 80)} if file_format == "JPEG2000" else {}
    whole = encoded(Image.fromarray(PICTURE), file_format, **arguments)
    data = whole[: len(whole) * 6 // 10]
    picture = read(data, "in")
    missing = share(picture.warnings[0])
    assert 0.3 < missing <= 0.5
    assert f"the {side} " in picture.warnings[0]
    rows = slice(0, 64) if side == "lower" else slice(-64, None)
    assert np.array_equal(picture.samples[rows], PICTURE[rows])
    with pytest.raises(TruncatedImage):
        read(data, "in", strict=True)


def test_what_gives_only_black_fails():
    """JPEG 2000 in one tile, WebP in a TIFF, which Pillow's libtiff does not decode."""
    image = Image.fromarray(PICTURE)
    data = encoded(image, "JPEG2000")
    with pytest.raises(UnreadableImage, match="nothing of it can be decoded"):
        read(data[: len(data) * 9 // 10], "in")
    data = encoded(image, "AVIF")
    with pytest.raises(UnreadableImage, match=r"[Dd]ecode"):
        read(data[: len(data) * 9 // 10], "in")


def test_no_cut_and_no_flip_gives_anything_but_a_sentence():
    """Every file is read, or refused in a sentence."""
    image = Image.fromarray(PICTURE[:40, :40])
    files = [encoded(image, f) for f in ("JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "AVIF")]
    files.append(tiff(data=PICTURE[:40, :40], compression="lzw"))
    for data in files:
        cuts = [data[:length] for length in (1, 2, 3, 4, 8, 9, 16, 26, 40, len(data) - 1)]
        for _ in range(15):
            changed = bytearray(data)
            changed[RNG.integers(min(len(data), 400))] = RNG.integers(256)
            cuts.append(bytes(changed))
        for cut in cuts:
            try:
                facts = examine(cut, "in")
                if facts.pixels < 10**6:
                    read(cut, "in")
            except UnreadableImage as error:
                assert re.fullmatch(r"in: [a-z].*[a-z]{3}.*", str(error))
