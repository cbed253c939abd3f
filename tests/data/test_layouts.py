"""Every layout of a file gives the pixels that it means, or is refused by its name."""

import io
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from cir_data.images.errors import UnreadableImage
from cir_data.images.opening import open_image
from cir_data.images.reading import examine, read
from cir_data.images.srgb import srgb_profile

ROWS, COLUMNS = np.mgrid[:37, :53]


def picture_of(bits):
    """Colour and alpha that fill the range of the bits."""
    full = 2**bits - 1
    planes = [ROWS * 7001, COLUMNS * 1201 + 5, (ROWS + COLUMNS) * 701, 20000 + ROWS * COLUMNS * 23]
    samples = (np.dstack(planes).clip(0, 65535) * full // 65535).astype(
        np.uint8 if bits <= 8 else np.uint16
    )
    return samples[..., :3], samples[..., 3]


def tiff(data, **arguments):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, data, metadata=None, **{"photometric": "rgb", **arguments})
    return buffer.getvalue()


def planes(samples):
    return np.ascontiguousarray(np.moveaxis(samples, 2, 0))


def inverted(samples):
    return ~samples


BESIDE = {"photometric": "minisblack", "planarconfig": "contig"}
LAYOUTS = {
    "chunky": lambda c, a: (c, {}),
    "planar": lambda c, a: (planes(c), {"planarconfig": "separate"}),
    "planar with alpha": lambda c, a: (
        planes(np.dstack([c, a])),
        {"planarconfig": "separate", "extrasamples": ["unassalpha"]},
    ),
    "alpha": lambda c, a: (np.dstack([c, a]), {"extrasamples": ["unassalpha"]}),
    "other": lambda c, a: (np.dstack([c, a]), {"extrasamples": ["unspecified"]}),
    "alpha and other": lambda c, a: (
        np.dstack([c, a, a // 2]),
        {"extrasamples": ["unassalpha", "unspecified"]},
    ),
    "other and alpha": lambda c, a: (
        np.dstack([c, a // 2, a]),
        {"extrasamples": ["unspecified", "unassalpha"]},
    ),
    "grey": lambda c, a: (c[..., 1], {"photometric": "minisblack"}),
    "grey with alpha": lambda c, a: (
        np.dstack([c[..., 1], a]),
        {**BESIDE, "extrasamples": ["unassalpha"]},
    ),
    "grey and other": lambda c, a: (
        np.dstack([c[..., 1], a]),
        {**BESIDE, "extrasamples": ["unspecified"]},
    ),
    "white is zero": lambda c, a: (inverted(c[..., 1]), {"photometric": "miniswhite"}),
    "tiles": lambda c, a: (c, {"tile": (16, 32)}),
    "strips": lambda c, a: (c, {"rowsperstrip": 5}),
    "BigTIFF": lambda c, a: (c, {"bigtiff": True}),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_tiff(layout, order, bits):
    colour, alpha = picture_of(bits)
    stored, arguments = LAYOUTS[layout](colour, alpha)
    data = tiff(stored, byteorder=order, **arguments)
    assert examine(data, "in").lossless
    picture = read(data, "in", strict=True)
    expected = colour[..., 1] if layout.startswith(("grey", "white")) else colour
    assert picture.samples.dtype == colour.dtype
    assert np.array_equal(picture.samples, expected)
    assert (picture.alpha is not None) == ("alpha" in layout)
    assert picture.alpha is None or np.array_equal(picture.alpha, alpha)
    assert any("dropped" in w for w in picture.warnings) == (
        "other" in layout or (layout == "BigTIFF" and order == ">")
    )


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("bits", [8, 16])
def test_compressions_of_tiff(bits, compression, predictor):
    colour, _ = picture_of(bits)
    predictor = predictor and compression != "packbits"
    for stored in (colour, planes(colour)):
        planar = "contig" if stored is colour else "separate"
        data = tiff(stored, compression=compression, predictor=predictor, planarconfig=planar)
        assert examine(data, "in").lossless
        assert np.array_equal(read(data, "in", strict=True).samples, colour)


@pytest.mark.parametrize("bits", [8, 16])
def test_premultiplied_alpha_is_divided_out(bits):
    colour, alpha = picture_of(bits)
    full = 2**bits - 1
    alpha[0, 0] = 0
    stored = (colour * (alpha[..., None] / full)).round().astype(colour.dtype)
    data = tiff(np.dstack([stored, alpha]), extrasamples=["assocalpha"])
    picture = read(data, "in", strict=True)
    assert np.array_equal(picture.alpha, alpha)
    error = np.abs(picture.samples.astype(float) - colour)
    assert error[1:].max() <= np.ceil(full / alpha[1:].min() / 2)
    assert not picture.samples[0, 0].any()


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_other_bits_of_tiff_are_scaled(bits):
    values = picture_of(bits)[0][..., 1]
    try:
        data = tiff(values, photometric="minisblack", bitspersample=bits)
    except NotImplementedError:
        pytest.skip("this imagecodecs does not write them")
    picture = read(data, "in")
    full = 255 if bits <= 8 else 65535
    expected = (values * (full / (2**bits - 1))).round()
    assert np.array_equal(picture.samples, expected)


def test_sixteen_bits_are_turned_and_keep_their_metadata():
    """Grey with alpha of 16 bits is a layout that Pillow does not open."""
    colour, alpha = picture_of(16)
    tags = [(274, "H", 1, 6, True), (271, "s", 0, "Maker", True)]
    tags.append((34675, "B", len(srgb_profile()), srgb_profile(), True))
    stored = np.dstack([colour[..., 0], alpha])
    data = tiff(stored, **BESIDE, extrasamples=["unassalpha"], extratags=tags)
    picture = read(data, "in", strict=True).upright()
    assert np.array_equal(picture.samples, np.rot90(colour[..., 0], -1))
    assert np.array_equal(picture.alpha, np.rot90(alpha, -1))
    assert picture.metadata.icc == srgb_profile()
    assert b"Maker" in picture.metadata.exif


def test_a_file_whose_metadata_pillow_cannot_read_is_turned_too():
    colour, _ = picture_of(8)
    data = tiff(colour, bigtiff=True, byteorder=">", extratags=[(274, "H", 1, 6, True)])
    assert np.array_equal(read(data, "in", strict=True).upright().samples, np.rot90(colour, -1))


@pytest.mark.parametrize("kind", ["int16", "float16", "float32", "uint32"])
def test_samples_without_a_range_are_named(kind):
    data = tiff(picture_of(8)[0].astype(kind))
    with pytest.raises(UnreadableImage, match=r"signed|floating-point|32-bit"):
        read(data, "in")


def test_a_tiff_without_an_interpretation_is_not_guessed():
    data = bytearray(tiff(picture_of(8)[0]))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offset = file.pages[0].tags[262].offset
    struct.pack_into("<H", data, offset, 65000)
    with pytest.raises(UnreadableImage, match="in: "):
        read(bytes(data), "in")


def test_overviews_and_masks_are_no_pages():
    colour, _ = picture_of(8)
    for order in [(0, 1, 4), (1, 0, 4), (4, 1, 0)]:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            for kind in order:
                stored = {0: colour, 1: colour[::2, ::2], 4: colour[..., 0] > 99}[kind]
                meaning = "mask" if kind == 4 else "rgb"
                writer.write(stored, photometric=meaning, subfiletype=kind, metadata=None)
        facts = examine(buffer.getvalue(), "in")
        assert (facts.frames, facts.width, facts.height) == (1, 53, 37)
        assert np.array_equal(read(buffer.getvalue(), "in", strict=True).samples, colour)


def several(file_format, **arguments):
    frames = [Image.fromarray(picture_of(8)[0]).rotate(angle) for angle in (0, 90, 180)]
    if file_format == "GIF":
        frames = [frame.convert("P") for frame in frames]
    buffer = io.BytesIO()
    frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:], **arguments)
    return buffer.getvalue()


def test_several_frames_without_loss_are_told_and_not_read():
    files = [several("GIF"), several("PNG"), several("WEBP", lossless=True), several("TIFF")]
    files.append(several("TIFF", compression="tiff_lzw"))
    for data in files:
        facts = examine(data, "in")
        assert (facts.frames, facts.lossless) == (3, True)
        with pytest.raises(UnreadableImage, match="in: holds 3 frames or pages"):
            read(data, "in")


def test_several_frames_with_loss_are_refused():
    for data in (several("WEBP"), several("AVIF"), several("TIFF", compression="jpeg")):
        with pytest.raises(UnreadableImage, match="in: holds 3 frames or pages"):
            examine(data, "in")


def test_a_broken_second_page_costs_only_itself():
    colour, _ = picture_of(8)
    data = bytearray(tiff(colour))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start = file.pages.next_page_offset
    struct.pack_into("<I", data, start, len(data) + 9)
    picture = read(bytes(data), "in")
    assert np.array_equal(picture.samples, colour)
    assert picture.warnings == ("it names more pages, which cannot be read",)
    struct.pack_into("<I", data, start, 8)  # a page that is its own next one
    assert examine(bytes(data), "in").frames == 1


def png(bits, colour_type, rows, **chunks):
    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    width = len(rows[0]) * 8 // bits // (3 if colour_type == 2 else 1)
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    for kind, content in chunks.items():
        data += chunk(kind.encode(), content)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return data + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "row", "key", "grey", "alpha"),
    [
        (1, b"\x55", 1, [0, 255] * 4, [255, 0] * 4),
        (2, b"\x1b", 2, [0, 85, 170, 255], [255, 255, 0, 255]),
        (4, b"\x1b", 11, [17, 187], [255, 0]),
        (8, b"\x1b\x07", 7, [27, 7], [255, 0]),
        (16, b"\x1b\x07\x1b\x08", 0x1B08, [0x1B07, 0x1B08], [65535, 0]),
    ],
)
def test_a_transparent_grey_of_any_bits(bits, row, key, grey, alpha):
    picture = read(png(bits, 0, [row], tRNS=struct.pack(">H", key)), "in")
    assert picture.samples.tolist() == [grey]
    assert picture.alpha.tolist() == [alpha]


def test_a_transparent_colour_of_16_bits_is_exact():
    row = struct.pack(">6H", 1, 2, 3, 1, 2, 4)
    picture = read(png(16, 2, [row], tRNS=struct.pack(">3H", 1, 2, 3)), "in")
    assert picture.samples.tolist() == [[[1, 2, 3], [1, 2, 4]]]
    assert picture.alpha.tolist() == [[0, 65535]]


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_2000_of_more_than_8_bits(bits, channels):
    colour, alpha = picture_of(bits)
    stored = {1: colour[..., 0], 3: colour, 4: np.dstack([colour, alpha])}[channels]
    data = imagecodecs.jpeg2k_encode(
        stored, level=0, reversible=True, bitspersample=bits, codecformat="jp2"
    )
    picture = read(data, "in", strict=True)
    expected = (stored[..., :3] if channels > 1 else stored) * (65535 / (2**bits - 1))
    assert np.array_equal(picture.samples, expected.round())
    assert (picture.alpha is not None) == (channels == 4)


def test_grey_of_16_bits_in_a_portable_map():
    values = picture_of(16)[0][..., 0]
    data = b"P5 53 37 65535\n" + values.astype(">u2").tobytes()
    assert np.array_equal(read(data, "in").samples, values)


COLOUR = picture_of(8)[0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (imagecodecs.jpeg8_encode(COLOUR.astype(np.uint16), bitspersample=12), "a 12-bit JPEG"),
        (
            imagecodecs.jpeg8_encode(COLOUR.astype(np.uint16), lossless=True, bitspersample=16),
            "a lossless 16-bit JPEG",
        ),
        (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x10\0\x10\1\1\x11\0" + bytes(40), "a JPEG-LS picture"),
        (b"\xff\xd8\xff\xc5\0\x0b\x08\0\x10\0\x10\1\1\x11\0" + bytes(40), "a hierarchical JPEG"),
        (imagecodecs.jpegxr_encode(COLOUR), "a JPEG XR picture"),
        (b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\7\0\0\0\7\0\x10\0\3", "a Photoshop document"),
        (b"FUJIFILMCCD-RAW 0201", "a camera raw file"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(9), "a camera raw file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript document"),
        (bytes([0, 0, 0, 24]) + b"ftypmp42" + bytes(40), "a video"),
        (b"\xff\xd8", "a damaged JPEG"),
        (b"RIFF\4\0\0\0WEBP", "WebP|no format"),
    ],
)
def test_what_cannot_be_read_is_named(data, reason):
    with pytest.raises(UnreadableImage, match=f"^in: cannot be read as an image: .*({reason})"):
        examine(data, "in")


def test_a_camera_raw_file_is_not_its_preview():
    tags = [(50706, "B", 4, (1, 4, 0, 0), True)]
    with pytest.raises(UnreadableImage, match="camera raw file"):
        examine(tiff(COLOUR, extratags=tags), "in")


def test_plugins_read_their_formats_or_are_named(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pytest.importorskip("pillow_jxl")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(COLOUR)).save(buffer, quality=90)
    jxl = imagecodecs.jpegxl_encode(COLOUR, lossless=True)
    assert np.array_equal(read(jxl, "in").samples, COLOUR)
    assert np.abs(read(buffer.getvalue(), "in").samples.astype(int) - COLOUR).mean() < 5
    for module, data, kind in [
        ("pillow_heif", buffer.getvalue(), "a HEIC picture"),
        ("pillow_jxl", jxl, "a JPEG XL picture"),
    ]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UnreadableImage, match=rf"in: {kind} needs .* pip install"):
            examine(data, "in")


def test_pictures_above_the_limit_of_pillow_are_opened_and_the_limit_stays():
    data = png(1, 0, [bytes(2)])
    huge = bytearray(data)
    struct.pack_into(">II", huge, 16, 30000, 30000)
    struct.pack_into(">I", huge, 29, zlib.crc32(huge[12:29]))
    limit = Image.MAX_IMAGE_PIXELS
    assert examine(bytes(huge), "in").pixels == 900_000_000
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(huge))
    assert open_image(bytes(huge)).size == (30000, 30000)
