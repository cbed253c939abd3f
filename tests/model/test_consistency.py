"""A restored picture is held to the DCT coefficients of its JPEG file."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import torch
from data_tools import smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cir_data.images.jpeg_coefficients import read_coefficients
from cir_host.errors import OptionsError, UserError
from cir_model.measuring.checks import check_consistency
from cir_model.restoring.consistency import can_hold, project
from cir_model.restoring.in_memory import default_restorer
from cir_model.restoring.inference import Restorer
from cir_model.restoring.on_disk import restore_bytes
from cir_model.restoring.settings import InferenceOptions, RestoreOptions

pytest.importorskip("jpeglib", reason="extra libjpeg is not installed")

LIVE1 = Path(__file__).parents[2] / "datasets/LIVE1"
KINDS = ("grey", "4:4:4", "4:2:2", "4:2:0")

TO_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)


def picture(seed, height=45, width=51, kind="4:2:0"):
    rng = np.random.default_rng(seed)
    samples = np.clip(
        smooth_image(height, width) * 255 + rng.normal(0, 20, (height, width, 3)), 0, 255
    )
    image = Image.fromarray(samples.round().astype(np.uint8))
    return image.convert("L") if kind == "grey" else image


def jpeg(image, quality, kind, **arguments):
    file = io.BytesIO()
    if kind != "grey":
        arguments["subsampling"] = kind
    image.save(file, "JPEG", quality=quality, **arguments)
    return file.getvalue()


def tensor(image):
    samples = np.asarray(image, np.float32)
    return torch.from_numpy(np.atleast_3d(samples).transpose(2, 0, 1) / 255)[None]


def ycc(image):
    return image if image.shape[1] == 1 else torch.einsum("ij,bjhw->bihw", TO_YCC, image)


def distance(one, other):
    return float((ycc(one) - ycc(other)).double().norm())


def arithmetic(image):
    """Return a JPEG whose header claims arithmetic coding."""
    return jpeg(image, 50, "4:2:0").replace(b"\xff\xc0", b"\xff\xc9", 1)


def worst_excess(image, coefficients):
    """Return how far the coefficients of whole blocks lie outside, computed block by block."""
    from scipy.fft import dctn

    worst = 0.0
    for index, part in enumerate(coefficients.components):
        plane = ycc(image)[0, index].double().numpy() * 255 - (128 if index == 0 else 0)
        down, across = part.pixels_down, part.pixels_across
        for row in range(plane.shape[0] // (8 * down)):
            for column in range(plane.shape[1] // (8 * across)):
                block = plane[row * 8 * down :, column * 8 * across :][: 8 * down, : 8 * across]
                means = block.reshape(8, down, 8, across).mean((1, 3))
                steps = part.steps.astype(float)
                away = dctn(means, norm="ortho") - part.quantised[row, column] * steps
                worst = max(worst, float((np.abs(away) - steps / 2).max()))
    return worst


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("progressive", [False, True])
def test_coefficients_of_the_output_lie_in_the_cells(kind, progressive):
    coefficients = read_coefficients(jpeg(picture(1, kind=kind), 60, kind, progressive=progressive))
    start = tensor(picture(2, kind=kind)) * 0.5 + 0.25
    assert worst_excess(start, coefficients) > 5
    projected = project(start, coefficients)
    assert worst_excess(projected, coefficients) < 1e-3
    # a rounding of each sample by at most 0.5 moves a coefficient by at most 8 * 0.5 in luma
    rounded = (projected * 255).round() / 255
    assert worst_excess(rounded, coefficients) < 4


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    quality=st.integers(5, 100),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    noise=st.floats(0, 0.5),
)
def test_projecting_brings_no_picture_farther_from_the_original(
    kind, quality, height, width, seed, noise
):
    image = picture(seed, height, width, kind)
    original = tensor(image)
    coefficients = read_coefficients(jpeg(image, quality, kind))
    rng = torch.Generator().manual_seed(seed)
    start = original + noise * torch.randn(original.shape, generator=rng)
    outside = distance(project(original, coefficients), original)  # by the encoder's rounding
    after = distance(project(start, coefficients), original)
    assert after <= distance(start, original) + outside + 1e-4
    # with a slack that covers this rounding, it holds without a remainder
    slack = max(0.0, worst_excess(original, coefficients)) + 1e-3
    after = distance(project(start, coefficients, slack=slack), original)
    assert after <= distance(start, original) + 1e-4


def test_parts_of_a_large_picture_equal_the_whole(monkeypatch):
    coefficients = read_coefficients(jpeg(picture(1), 30, "4:2:0"))
    whole = project(tensor(picture(2)), coefficients)
    monkeypatch.setattr("cir_model.restoring.consistency._BAND", 1)
    assert torch.allclose(project(tensor(picture(2)), coefficients), whole, atol=1e-6)


def test_another_size_is_refused():
    with pytest.raises(UserError, match="is not that of the JPEG"):
        project(tensor(picture(1, 40, 40)), read_coefficients(jpeg(picture(1), 30, "4:2:0")))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg(picture(1), 50, "4:2:0")[:-300], "damaged"),
        (jpeg(picture(1).convert("CMYK"), 50, "4:4:4"), "CMYK"),
        (jpeg(picture(1), 50, "4:4:4", keep_rgb=True), "RGB"),
        (
            simplejpeg.encode_jpeg(np.asarray(picture(1).convert("CMYK")), 50, "CMYK", "444"),
            "CMYK",
        ),
        (arithmetic(picture(1)), "Huffman"),
    ],
)
def test_what_cannot_be_read_is_restored_and_named(data, reason):
    options = RestoreOptions(force=True)
    outcome = restore_bytes(data, "photo.jpg", "png", default_restorer("cpu"), options)
    assert outcome.action == "restored"
    (note,) = (text for text in outcome.warnings if "less exactly than usual" in text)
    assert reason in note


def test_12_bits_are_not_read():
    samples = np.asarray(picture(1), np.uint16) * 16
    with pytest.raises(UserError, match="8-bit"):
        read_coefficients(imagecodecs.jpeg8_encode(samples, bitspersample=12))


def test_restore_holds_turned_jpegs_unless_told_otherwise():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(picture(1), 90, "4:2:0", exif=exif)
    excess = {}
    options = RestoreOptions(force=True, bits=16)
    networks = default_restorer("cpu").networks
    for consistency in (True, False):
        restorer = Restorer(networks, InferenceOptions(consistency=consistency))
        outcome = restore_bytes(data, "photo.jpg", "png", restorer, options)
        restored = outcome.after.samples.transpose(2, 0, 1).astype(np.float32) / 65535
        stored = torch.from_numpy(restored).mT.flip(-2)[None]
        excess[consistency] = worst_excess(stored, read_coefficients(data))
    assert excess[True] < 0.1 < 1 < excess[False]


@pytest.mark.skipif(not LIVE1.is_dir(), reason="datasets/LIVE1 is absent")
@pytest.mark.parametrize("quality", [90, 95])
def test_no_restored_photograph_gets_worse(quality):
    paths = sorted(path for path in LIVE1.rglob("*") if path.suffix in (".bmp", ".png"))
    assert paths
    for path in paths[::10]:
        with Image.open(path) as image:
            crop = image.convert("RGB").crop((0, 0, 96, 96))
        data = jpeg(crop, quality, "4:2:0")
        with Image.open(io.BytesIO(data)) as image:
            restored = default_restorer("cpu")(tensor(image))
        held = project(restored, read_coefficients(data))
        assert (held - tensor(crop)).norm() <= (restored - tensor(crop)).norm()


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_chroma_of_other_shapes_is_held_by_its_means(subsampling):
    data = simplejpeg.encode_jpeg(np.asarray(picture(1)), 60, "RGB", subsampling)
    coefficients = read_coefficients(data)
    start = tensor(picture(2)) * 0.5 + 0.25
    assert worst_excess(start, coefficients) > 5
    assert worst_excess(project(start, coefficients), coefficients) < 1e-3


@pytest.mark.parametrize(("kind", "channels"), [("grey", 3), ("4:2:0", 1)])
def test_luma_alone_is_held_if_the_image_or_the_file_is_grey(kind, channels):
    coefficients = read_coefficients(jpeg(picture(1, kind=kind), 60, kind))
    start = (tensor(picture(2)) * 0.5 + 0.25)[:, :channels]
    held = project(start, coefficients)
    luma_alone = replace(coefficients, components=coefficients.components[:1])
    assert worst_excess(start, luma_alone) > 5
    assert worst_excess(held, luma_alone) < 1e-3
    assert torch.allclose(ycc(held)[:, 1:], ycc(start)[:, 1:], atol=1e-6)


@pytest.mark.parametrize("zeros", [3, 20])
def test_bytes_after_the_last_block_give_no_messages(zeros, capfd):
    whole = jpeg(picture(1), 60, "4:2:0")
    padded = read_coefficients(whole[:-2] + bytes(zeros) + whole[-2:])
    for part, expected in zip(padded.components, read_coefficients(whole).components, strict=True):
        assert np.array_equal(part.quantised, expected.quantised)
    assert capfd.readouterr().err == ""


def test_a_missing_package_is_told_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    can_hold.cache_clear()
    default_restorer.cache_clear()
    try:
        with caplog.at_level("WARNING", "basicsr"):
            outcomes = [
                restore_bytes(data, "photo.jpg", "png", default_restorer("cpu"), RestoreOptions())
                for data in (jpeg(picture(1), 50, "4:2:0"), jpeg(picture(2), 50, "4:2:0"))
            ]
        assert [outcome.action for outcome in outcomes] == ["restored"] * 2
        assert not any(outcome.warnings for outcome in outcomes)
        (line,) = caplog.messages
        assert line.startswith("JPEGs are restored a little less exactly than usual, without")
        assert "pip install 'basicsr-cir[libjpeg]'" in line
    finally:
        can_hold.cache_clear()
        default_restorer.cache_clear()


def test_validation_without_the_package_is_refused(monkeypatch):
    restorer = Restorer(default_restorer("cpu").networks, InferenceOptions(consistency=True))
    check_consistency(restorer)
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    with pytest.raises(OptionsError, match=r"val\.consistency: .*needs the package jpeglib"):
        check_consistency(restorer)


def test_the_result_can_take_the_place_of_the_image():
    file = io.BytesIO()
    Image.new("RGB", (40, 32), "teal").save(file, "JPEG", quality=50)
    coefficients = read_coefficients(file.getvalue())
    image = torch.rand(1, 3, 32, 40)
    expected = project(image.clone(), coefficients)
    assert project(image, coefficients, out=image) is image
    assert torch.equal(image, expected)
