"""Pictures read and written: nothing that a file holds is lost."""

import io
import re
import shutil
import struct
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_tools import PILLOW, encoded
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from cir_data.images.decoding import decode
from cir_data.images.errors import UnreadableImage
from cir_data.images.metadata import Metadata
from cir_data.images.reading import Picture, examine, read
from cir_data.images.srgb import srgb_profile
from cir_data.images.writing import Encoding, UnwritablePicture

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6" dc:title="T"/></x:xmpmeta>'


def gradient(height=24, width=40, channels=3):
    rows, columns = np.mgrid[:height, :width]
    planes = [rows * 5, columns * 4, rows * 3 + columns * 2, 255 - rows * 4]
    return np.dstack(planes[:channels]).clip(0, 255).astype(np.uint8).squeeze()


def exif_of(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"offsets \x01\x02"
    return exif


def again(picture, file_format, quality=100):
    return read(Encoding(file_format, quality).encode(picture, "out"), "out")


@pytest.mark.parametrize(
    ("mode", "file_format", "shape", "alpha"),
    [
        ("1", "PNG", 2, False),
        ("L", "PNG", 2, False),
        ("L", "JPEG", 2, False),
        ("LA", "PNG", 2, True),
        ("P", "PNG", 3, False),
        ("P", "GIF", 3, False),
        ("RGB", "JPEG", 3, False),
        ("RGB", "BMP", 3, False),
        ("RGB", "AVIF", 3, False),
        ("RGB", "JPEG2000", 3, False),
        ("RGBA", "PNG", 3, True),
        ("RGBA", "WEBP", 3, True),
        ("CMYK", "JPEG", 3, False),
        ("CMYK", "TIFF", 3, False),
        ("YCbCr", "JPEG", 3, False),
        ("YCbCr", "TIFF", 3, False),
        ("LAB", "TIFF", 3, False),
        ("I;16", "PNG", 2, False),
        ("I;16", "TIFF", 2, False),
    ],
)
def test_colour_modes(mode, file_format, shape, alpha):
    rgb = Image.fromarray(gradient())
    if mode == "I;16":
        image = Image.fromarray(gradient(channels=1).astype(np.uint16) * 257)
    elif mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
    else:
        image = rgb.convert(mode)
    if alpha:
        image.putalpha(Image.fromarray(gradient(channels=1)))
    data = encoded(image, file_format)
    if (mode, file_format) == ("YCbCr", "TIFF") and PILLOW < 13:
        for reader in (read, decode):
            with pytest.raises(UnreadableImage, match=r"(?i)ycbcr"):
                reader(data, "in")
        pytest.skip("Pillow before 13 takes it for RGB, so it is refused")
    picture = read(data, "in")
    assert picture.samples.ndim == shape
    assert picture.samples.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert (picture.alpha is not None) == alpha
    expected = np.asarray(rgb.convert("L") if shape == 2 else rgb, float)
    if mode not in ("1", "P"):
        values = picture.samples / (257 if mode == "I;16" else 1)
        reference = gradient(channels=1) if mode == "I;16" else expected
        assert np.abs(values - reference).mean() < 12
    if alpha:
        assert np.abs(picture.alpha.astype(int) - gradient(channels=1)).max() <= 1
    assert not picture.warnings or mode == "CMYK"
    assert (picture.metadata.icc == srgb_profile()) == (mode in ("CMYK", "LAB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "bits"), [("JPEG", 8), ("PNG", 8), ("TIFF", 8), ("PNG", 16)]
)
def test_orientation_is_applied_and_reset(orientation, file_format, bits):
    """The picture is marked in one corner, so that no two orientations look alike."""
    upright = np.full((32, 48), 40, np.uint8)
    upright[:16, :16], upright[:16, 16:] = 250, 120
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    stored = np.ascontiguousarray(undo[orientation](upright))
    image = Image.fromarray(stored if bits == 8 else stored.astype(np.uint16) * 257)
    picture = read(encoded(image, file_format, exif=exif_of(orientation)), "in")
    assert picture.samples.shape == stored.shape
    picture = picture.upright()
    values = picture.samples // (257 if bits == 16 else 1)
    assert values.shape == upright.shape
    assert np.abs(values.astype(int) - upright).max() <= 3
    written = Image.open(io.BytesIO(Encoding("png").encode(picture, "out")))
    assert written.getexif().get(ExifTags.Base.Orientation, 1) == 1
    assert written.getexif()[ExifTags.Base.Make] == "Maker"


def test_orientation_overwrites_two_bytes_of_the_exif():
    before = read(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif_of(1)), "in").metadata.exif
    after = read(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif_of(6)), "in").metadata.exif
    assert before == after
    assert b"offsets \x01\x02" in after


@pytest.mark.parametrize(
    "exif", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_is_left_alone(exif):
    assert Metadata(exif=exif).upright().exif == exif


@pytest.mark.parametrize("source", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("target", ["jpeg", "png", "webp", "tiff"])
def test_metadata_goes_from_every_format_to_every_format(source, target):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    metadata = Metadata(
        exif=exif_of(1).tobytes().removeprefix(b"Exif\0\0"), icc=profile, xmp=XMP, dpi=(300, 300)
    )
    first = again(Picture(gradient(), None, metadata), source)
    assert b'Orientation="1"' in first.metadata.xmp
    second = again(first, target)
    assert second.metadata.icc == profile
    assert second.metadata.xmp == first.metadata.xmp
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + second.metadata.exif)
    assert exif[ExifTags.Base.Make] == "Maker"
    assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] == b"offsets \x01\x02"
    if "webp" not in (source, target):
        assert second.metadata.dpi == pytest.approx((300, 300), abs=0.1)


def test_orientation_that_xmp_alone_states():
    data = encoded(Image.fromarray(gradient(16, 48)), "JPEG", xmp=XMP)
    picture = read(data, "in")
    assert picture.upright().samples.shape == (48, 16, 3)
    assert b'Orientation="1"' in picture.metadata.xmp
    assert again(picture, "jpeg").samples.shape == (48, 16, 3)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_sixteen_bits_survive(grey, alpha):
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 65536, (9, 13) if grey else (9, 13, 3), dtype=np.uint16)
    plane = rng.integers(0, 65536, (9, 13), dtype=np.uint16) if alpha else None
    metadata = Metadata(icc=srgb_profile(), xmp=XMP.replace(b'"6"', b'"1"'), dpi=(300, 300))
    picture = again(Picture(samples, plane, metadata), "png")
    if grey and alpha:  # written as colour
        assert (picture.samples == samples[..., None]).all()
    else:
        assert np.array_equal(picture.samples, samples)
    assert plane is None or np.array_equal(picture.alpha, plane)
    assert picture.metadata.icc == srgb_profile()
    assert picture.metadata.xmp == metadata.xmp
    assert picture.metadata.dpi == pytest.approx((300, 300), abs=0.1)


def test_sixteen_bit_colour_tiff():
    samples = np.random.default_rng(0).integers(0, 65536, (9, 13, 3), dtype=np.uint16)
    assert np.array_equal(again(Picture(samples, None, Metadata()), "tiff").samples, samples)
    kept = again(Picture(samples, None, Metadata(icc=srgb_profile())), "tiff")
    assert np.array_equal(kept.samples, samples)
    assert kept.metadata.icc == srgb_profile()


def test_grey_with_alpha_of_16_bits_from_a_file():
    """A PNG written by hand, since neither library writes this kind."""
    import zlib

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 2, 1, 16, 4, 0, 0, 0)
    row = b"\0" + struct.pack(">HHHH", 1000, 65535, 40000, 7)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row))
    picture = read(data + chunk(b"IEND", b""), "in")
    assert picture.samples.tolist() == [[1000, 40000]]
    assert picture.alpha.tolist() == [[65535, 7]]


@pytest.mark.skipif(shutil.which("cjpeg") is None, reason="needs cjpeg (libjpeg-turbo-progs)")
@pytest.mark.parametrize("flag", ["-progressive", "-arithmetic", "-restart 1"])
def test_kinds_of_jpeg(flag, tmp_path):
    image = Image.fromarray(gradient(64, 96))
    image.save(tmp_path / "in.ppm")
    command = ["cjpeg", "-quality", "80", *flag.split(), str(tmp_path / "in.ppm")]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    facts = examine(data, "in")
    assert (facts.format, facts.quality, facts.standard_tables) == ("JPEG", 80, True)
    assert np.abs(read(data, "in").samples.astype(int) - np.asarray(image)).mean() < 3


def has_imagemagick():
    """Other programs are called ``convert`` too."""
    if shutil.which("convert") is None:
        return False
    done = subprocess.run(["convert", "-version"], capture_output=True, text=True, check=False)
    return "ImageMagick" in done.stdout


@pytest.mark.skipif(not has_imagemagick(), reason="needs ImageMagick")
def test_ycck_is_converted(tmp_path):
    path = tmp_path / "ycck.jpg"
    Image.fromarray(gradient(64, 96)).save(tmp_path / "in.png")
    subprocess.run(
        ["convert", str(tmp_path / "in.png"), "-colorspace", "CMYK", "-quality", "95", str(path)],
        check=True,
    )
    picture = read(path.read_bytes(), "in")
    assert np.abs(picture.samples.astype(int) - gradient(64, 96)).mean() < 12
    assert picture.metadata.icc == srgb_profile()


PRESS = Path("/usr/share/color/icc/ghostscript/default_cmyk.icc")
"""The profile of a printing press, in Debian's package libgs-common."""


@pytest.mark.skipif(not PRESS.exists(), reason="needs Ghostscript's CMYK profile, libgs-common")
@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_of_a_printing_press_has_its_colours_again(file_format):
    muted = 80 + gradient() // 4  # what ink can print
    printed = ImageCms.profileToProfile(
        Image.fromarray(muted),
        ImageCms.createProfile("sRGB"),
        str(PRESS),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="CMYK",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    keywords = {"quality": 98, "subsampling": 0} if file_format == "JPEG" else {}
    data = encoded(printed, file_format, icc_profile=PRESS.read_bytes(), **keywords)
    picture = read(data, "in")
    assert not picture.warnings
    assert picture.metadata.icc == srgb_profile()
    assert np.abs(picture.samples.astype(int) - muted).max() < 5
    formula = np.asarray(printed.convert("RGB")).astype(int)
    assert np.abs(formula - muted).max() > 15


def test_a_profile_that_is_not_of_cmyk_is_not_used():
    """A profile for grey is of another kind: it cannot be used, which is said."""
    image = Image.fromarray(gradient()).convert("CMYK")
    wrong = srgb_profile()
    picture = read(encoded(image, "JPEG", icc_profile=wrong), "in")
    assert "another kind" in picture.warnings[0]
    assert read(encoded(image, "JPEG", icc_profile=b"junk"), "in").warnings


@pytest.mark.parametrize("quality", [1, 10, 50, 95, 100])
def test_quality_is_read_from_the_tables(quality):
    for mode in ("L", "RGB"):
        facts = examine(encoded(Image.new(mode, (16, 16)), "JPEG", quality=quality), "in")
        assert (facts.quality, facts.standard_tables) == (quality, True)


def test_quality_of_other_tables_is_estimated():
    standard = Image.open(io.BytesIO(encoded(Image.new("L", (8, 8)), "JPEG", quality=60)))
    table = list(standard.quantization[0])
    table[5] += 1
    facts = examine(encoded(Image.new("L", (8, 8)), "JPEG", qtables=[table]), "in")
    assert abs(facts.quality - 60) <= 1
    assert not facts.standard_tables


def test_lossless_or_not():
    image = Image.fromarray(gradient())
    lossless = [encoded(image, "PNG"), encoded(image, "WEBP", lossless=True), encoded(image, "BMP")]
    lossless += [encoded(image, "WEBP", lossless=True, exif=exif_of(1)), encoded(image, "TIFF")]
    lossy = [encoded(image, "JPEG"), encoded(image, "WEBP"), encoded(image, "AVIF")]
    lossy += [encoded(image, "TIFF", compression="jpeg")]
    assert all(examine(data, "in").lossless for data in lossless)
    assert not any(examine(data, "in").lossless for data in lossy)


def test_bad_files_are_named():
    for data, reason in [(b"", "empty"), (b"text", "no format")]:
        with pytest.raises(UnreadableImage, match=f"in.jpg: .*{reason}"):
            examine(data, "in.jpg")
    for mode in ("F", "I"):
        with pytest.raises(UnreadableImage, match="no stated range"):
            read(encoded(Image.new(mode, (8, 8)), "TIFF"), "in")


def test_mpo_of_a_camera_is_a_jpeg():
    two = [Image.fromarray(gradient()), Image.new("RGB", (8, 8))]
    data = encoded(two[0], "MPO", save_all=True, append_images=two[1:], quality=80)
    assert examine(data, "in").format == "JPEG"
    assert examine(data, "in").quality == 80
    assert read(data, "in").samples.shape == (24, 40, 3)
    (dropped,) = read(data, "in").metadata.dropped
    assert re.fullmatch(r"\d+ bytes after the picture \(such as an HDR gain map.*", dropped)


@pytest.mark.parametrize(
    ("after", "dropped"),
    [(b"", 0), (b"\0" * 999, 0), (b"\xff\xff\r\n", 0), (b"\0\0\0\x18ftypmp42" * 900, 1)],
)
@pytest.mark.parametrize("start", [b"\xff\xd8", b"\xff\xd8\xff\xe1\0\x09Exif\0\0*"])
def test_what_follows_a_jpeg_is_named(start, after, dropped):
    """Also if the metadata are damaged, so that Pillow is given the picture alone."""
    data = start + encoded(Image.fromarray(gradient()), "JPEG")[2:] + after
    found = read(data, "in").metadata.dropped
    assert sum("11 kB after the picture" in what for what in found) == dropped
    assert sum("after the picture" in what for what in found) == dropped


def test_what_a_format_cannot_hold():
    wide = Picture(np.zeros((1, 65501), np.uint8), None, Metadata())
    for file_format in ("jpeg", "webp"):
        with pytest.raises(UnwritablePicture, match="65501 x 1"):
            Encoding(file_format).encode(wide, "out")
    assert again(wide, "png").samples.shape == (1, 65501)
    with pytest.raises(UnwritablePicture, match="alpha"):
        Encoding("jpeg").encode(Picture(gradient(), gradient(channels=1), Metadata()), "out")


def test_palettes_and_transparent_colours_keep_their_alpha():
    palette = Image.fromarray(gradient()).convert("P")
    assert read(encoded(palette, "PNG", transparency=3), "in").alpha is not None
    grey = Image.fromarray(gradient(channels=1))
    assert (read(encoded(grey, "PNG", transparency=5), "in").alpha == 0).any()


def test_opencv_reads_what_is_written_with_chunks():
    samples = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    data = Encoding("png").encode(Picture(samples, None, Metadata(icc=srgb_profile())), "out")
    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(back[..., ::-1], samples)
    assert isinstance(Image.open(io.BytesIO(data)), PngImagePlugin.PngImageFile)
