"""What a file says beside its pixels, carried into every format or named as dropped."""

import io
import re
import struct
from xml.etree import ElementTree

import numpy as np
import pytest
from data_tools import encoded
from PIL import ExifTags, Image, ImageCms

from cir_data.images.formats import SUFFIXES
from cir_data.images.iptc import Iptc
from cir_data.images.metadata import Metadata
from cir_data.images.reading import Picture, read
from cir_data.images.writing import Encoding
from cir_data.images.xmp import source_of, with_source

FORMATS = list(SUFFIXES)


def pixels():
    return np.add.outer(np.arange(40), np.arange(60))[..., None] * [2, 1, 2] % 256


def jpeg(image=None, **arguments):
    return encoded(image or pixels().astype(np.uint8), "JPEG", quality=90, **arguments)


def exif_of(**tags):
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[int(tag[1:])] = value
    return exif


def iptc(*sets):
    return b"".join(struct.pack(">BBBH", 0x1C, 2, n, len(text)) + text for n, text in sets)


def with_iptc(data, content):
    """Put IPTC's data into a JPEG as Photoshop does."""
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(content)) + content
    segment = b"Photoshop 3.0\0" + resource + b"\0" * (len(content) % 2)
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def write(picture, file_format):
    """Return the written file decoded again, and what was dropped."""
    encoding = Encoding(file_format, 100)
    data = encoding.encode(picture, "out")
    return read(data, "out"), encoding.fitted(picture.metadata)[1]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("tags", "mode"),
    [
        ({"t256": 4000, "t257": 3000}, "RGB"),
        ({"t256": 60, "t257": 40, "t274": 6}, "RGB"),
        ({"t258": (8, 8, 8), "t262": 2, "t277": 3}, "L"),
        ({"t284": 2, "t273": 1, "t278": 1, "t279": 99999}, "RGB"),
        ({"t262": 6, "t259": 7, "t317": 1, "t338": 1}, "RGB"),
        ({"t254": 1, "t330": 8, "t320": (0, 0)}, "L"),
    ],
)
def test_tags_of_another_storage_change_no_pixel(file_format, tags, mode):
    image = Image.fromarray(pixels().astype(np.uint8)).convert(mode)
    picture = read(jpeg(image, exif=exif_of(t271="Maker", **tags)), "in").upright()
    again, _ = write(picture, file_format)
    if file_format == "webp":  # which has no grey
        reference = np.asarray(Image.fromarray(picture.samples).convert("RGB"))
        assert np.array_equal(again.samples, reference)
    elif file_format == "jpeg":
        assert np.abs(again.samples.astype(int) - picture.samples).mean() < 2
    else:
        assert np.array_equal(again.samples, picture.samples)
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + again.metadata.exif)
    assert exif[271] == "Maker"


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_maker_note_keeps_its_place_in_tiff(order):
    """Canon's notes hold offsets from the start of the structure."""
    exif = Image.Exif()
    exif.endian = order
    exif[271] = "Canon"
    note = b"a maker note whose offsets count from the start"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = note
    picture = read(jpeg(exif=exif), "in")
    data = Encoding("tiff").encode(picture, "out")
    assert data.find(note) == picture.metadata.exif.find(note) > 0
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 1
        assert image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] == note


def with_thumbnail(orientation):
    thumbnail = jpeg(Image.new("RGB", (16, 12), "red"))
    main = struct.pack("<HHHIHHI", 1, 274, 3, 1, orientation, 0, 26)
    second = struct.pack("<HHHIIHHIII", 2, 513, 4, 1, 56, 514, 4, 1, len(thumbnail), 0)
    return read(jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0" + main + second + thumbnail), "in")


@pytest.mark.parametrize(("orientation", "kept"), [(1, True), (6, False)])
def test_a_turned_picture_leaves_its_thumbnail(orientation, kept):
    picture = with_thumbnail(orientation)
    with Image.open(io.BytesIO(Encoding("jpeg").encode(picture, "out"))) as image:
        assert bool(image.getexif().get_ifd(ExifTags.IFD.IFD1)) is kept
    assert not picture.metadata.dropped  # viewers make their own thumbnails
    assert picture.upright().samples.shape == ((40, 60, 3) if kept else (60, 40, 3))


def test_a_thumbnail_is_no_second_page_of_a_tiff():
    again, dropped = write(with_thumbnail(1), "tiff")
    assert not dropped
    assert again.samples.shape == (40, 60, 3)


def test_webp_states_a_resolution_in_exif_alone():
    for tags, dropped in (({}, 1), ({"t282": 300.0, "t283": 300.0}, 0)):
        picture = read(jpeg(exif=exif_of(t271="Maker", **tags), dpi=(300, 300)), "in")
        assert len(Encoding("webp").fitted(picture.metadata)[1]) == dropped


@pytest.mark.parametrize("file_format", FORMATS)
def test_captions_and_keywords_are_kept(file_format):
    content = iptc((120, b"A caption & more"), (25, b"sea"), (25, "Küste".encode()), (4, b"art"))
    again, dropped = write(read(with_iptc(jpeg(), content), "in"), file_format)
    if file_format in ("jpeg", "tiff"):
        assert again.metadata.iptc == Iptc(content)
        assert not dropped
    else:
        text = again.metadata.xmp.decode()
        assert re.search(r"<dc:description>.*A caption &amp; more", text)
        assert re.search(r"<dc:subject>.*<rdf:li>sea</rdf:li><rdf:li>Küste</rdf:li>", text)
        assert dropped == ("IPTC's genre",)


def test_xmp_that_has_a_caption_keeps_its_own():
    rdf = '<rdf:RDF xmlns:rdf="r"><rdf:Description rdf:about="x" dc:description="mine"/></rdf:RDF>'
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{rdf}</x:xmpmeta>'.encode()
    metadata = Metadata(xmp=xmp, iptc=Iptc(iptc((120, b"other"), (25, b"sea"))))
    kept, _ = Encoding("png").fitted(metadata)
    assert b"other" not in kept.xmp
    assert kept.xmp.count(b'rdf:about="x"') == 2


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("xmp", b"<x:xmpmeta>" + b" " * 70_000 + b"</x:xmpmeta>"),
        (
            "exif",
            b"II*\0\x08\0\0\0\1\0\x0f\1\2\0" + struct.pack("<III", 70_000, 26, 0) + b"m" * 70_000,
        ),
        (
            "icc",
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(1 << 21),
        ),
        ("comment", b"c" * 70_000),
        ("iptc", Iptc(iptc(*[(25, b"k" * 60)] * 1200))),
        ("dpi", (1e12, 1e12)),
        ("dpi", (1e-9, 1e-9)),
        ("texts", {"k" * 80: "v", "Title": "t"}),
    ],
)
def test_what_a_format_cannot_hold_is_dropped_by_name(file_format, part, content):
    """Either it comes back, or it is named; the picture is written and read either way."""
    picture = Picture(pixels().astype(np.uint8), None, Metadata(**{part: content}))
    again, dropped = write(picture, file_format)
    assert again.samples.shape == (40, 60, 3)
    kept = getattr(again.metadata, part)
    if part == "iptc" and file_format in ("png", "webp"):
        assert again.metadata.xmp.count(b"<rdf:li>") == 1200
    elif part == "exif" and not dropped:
        assert b"m" * 69_000 in kept
    elif part == "dpi" and file_format != "webp" and not dropped:
        assert kept == pytest.approx(content, rel=0.01)
    elif part != "dpi":
        assert (kept == content) is not bool(dropped)


def test_damaged_exif_costs_neither_the_picture_nor_the_batch():
    for damage in (b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09junk", b"junk"):
        picture = read(jpeg(exif=b"Exif\0\0" + damage), "in")
        assert picture.metadata.exif is None
        assert "damaged EXIF" in picture.metadata.dropped
        assert np.array_equal(write(picture, "tiff")[0].samples, picture.samples)


def test_profiles_and_xmp_of_jpeg_2000():
    buffer = io.BytesIO()
    Image.fromarray(pixels().astype(np.uint8)).save(buffer, "JPEG2000")
    data = buffer.getvalue()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colour = b"\2\0\0" + profile
    old = data.index(b"colr") - 4
    size = int.from_bytes(data[old : old + 4], "big")
    head = data.index(b"jp2h") - 4
    new = struct.pack(">I", len(colour) + 8) + b"colr" + colour
    length = int.from_bytes(data[head : head + 4], "big") - size + len(new)
    xmp = bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + b"<x:xmpmeta/>"
    box = struct.pack(">I", len(xmp) + 8) + b"uuid" + xmp
    changed = data[:head] + struct.pack(">I", length) + data[head + 4 : old] + new
    end = head + int.from_bytes(data[head : head + 4], "big")
    picture = read(changed + data[old + size : end] + box + data[end:], "in")
    assert picture.metadata.icc == profile
    assert picture.metadata.xmp == b"<x:xmpmeta/>"


def test_the_source_is_stated_once():
    for xmp in (None, with_source(None, "00")):
        marked = with_source(xmp, "ab12")
        assert source_of(marked) == "ab12"
        assert marked.count(b"cir:source") == 1
    assert with_source(b"no packet", "ab12") == b"no packet"
    assert source_of(None) is None


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
def test_comments_keep_their_letters_in_png(coding):
    picture = read(jpeg(comment="Grüße".encode(coding)), "in")
    data = Encoding("png").encode(picture, "out")
    assert Image.open(io.BytesIO(data)).info["Comment"] == "Grüße"


ABOUT_OTHER_PARTS = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:g="http://ns.google.com/photos/1.0/camera/"
    xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:Container="http://ns.google.com/photos/1.0/container/"
    xmlns:Item="http://ns.google.com/photos/1.0/container/item/" hdrgm:Version="1.0"
    g:MotionPhoto="1" g:MotionPhotoPresentationTimestampUs='96' g:SpecialTypeID="kept"
    dc:format="kept">
   <g:MicroVideo>1</g:MicroVideo> <g:BurstID>kept</g:BurstID>
   <hdrgm:GainMapMax><rdf:Seq><rdf:li>1.5</rdf:li></rdf:Seq></hdrgm:GainMapMax>
   <Container:Directory>
    <rdf:Seq>
     <rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary"/></rdf:li>
     <rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap"/></rdf:li>
    </rdf:Seq>
   </Container:Directory>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""


def test_a_result_does_not_claim_a_gain_map_or_a_video():
    picture = read(jpeg(xmp=ABOUT_OTHER_PARTS.encode()), "in")
    (description,) = ElementTree.fromstring(picture.metadata.xmp)[0]
    tags = [*description.attrib, *(element.tag for element in description)]
    assert [tag.rpartition("}")[2] for tag in tags] == [
        "about",
        "SpecialTypeID",
        "format",
        "BurstID",
    ]
    other = ABOUT_OTHER_PARTS.replace("google.com", "example.com").replace("adobe.com", "a.com")
    assert read(jpeg(xmp=other.encode()), "in").metadata.xmp == other.encode()
