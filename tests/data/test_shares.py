"""Shares of the training crops: grey, drawn, by another codec, not compressed, on the grid."""

import io
from collections import Counter

import numpy as np
import pytest
import torch
from data_tools import make, plain_jpeg, save, to_uint8
from PIL import Image
from torch.utils.data import DataLoader

from cir_data.images.drawn_pages import FIRST_OF_TRAINING, drawn_page
from cir_host.errors import OptionsError
from cir_host.sampler import SampleIndex

SIZE = 16
WEBP = {"codec": "webp", "quality": {"range": [5, 95]}, "probability": 0.25}
ALL_SHARES = {
    "drawn": 0.2,
    "grey": 0.3,
    "uncompressed": 0.1,
    "other_codecs": [WEBP],
    "align": {"mcu": 0.7},
    "double": {
        "quality": {"range": [20, 95]},
        "probability": 0.5,
        "shift": "random",
        "shift_probability": 0.5,
        "tell": "lowest",
    },
}


@pytest.fixture
def image(tmp_path):
    """A noise image, in which every crop is unlike all others."""
    pixels = np.random.default_rng(1).integers(0, 256, (60, 73, 3), np.uint8)
    save(tmp_path / "a.png", pixels)
    return pixels


def samples(folder, count, kind="JPEGRestorationDataset", **options):
    section = {"dataroot_gt": str(folder), "quality": {"range": [5, 95]}, "gt_size": SIZE}
    data_set = make(kind, **{**section, **options})
    return [data_set[SampleIndex(0, 0, position)] for position in range(count)]


def place(crop, image):
    """The rows and columns of a crop in an image."""
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape[:2], (0, 1))
    if image.ndim == 3:
        windows = np.moveaxis(windows, 2, -1)
    ((row, column),) = np.argwhere((windows == crop).all(tuple(range(2, windows.ndim))))
    return slice(row, row + SIZE), slice(column, column + SIZE)


def original_of(sample, image):
    if sample["gt_path"].startswith("drawn page "):
        seed = int(sample["gt_path"].split()[-1])
        assert seed >= FIRST_OF_TRAINING
        return drawn_page(seed, (2 * SIZE, 2 * SIZE))
    return image


def is_grey(sample):
    return bool((sample["gt"] == sample["gt"][:1]).all())


def test_every_share_has_its_rate(tmp_path, image):
    drawn = samples(tmp_path, 1000, **ALL_SHARES, quality=60)
    photographs = [s for s in drawn if not s["gt_path"].startswith("drawn")]
    codecs = Counter(s["codec"].split(" ")[0] for s in drawn)
    jpegs = [s for s in drawn if s["codec"].startswith("JPEG")]
    doubles = [s for s in jpegs if s["first_quality"] > 0]
    offsets = [s["block_offset"].tolist() for s in drawn]
    shifted = [s["block_offset"].tolist() != s["first_block_offset"].tolist() for s in doubles]
    rates = {
        "drawn": (1 - len(photographs) / len(drawn), 0.2),
        "grey": (np.mean([is_grey(s) for s in photographs]), 0.3),
        "uncompressed": (codecs["none"] / len(drawn), 0.1),
        "webp": (codecs["WebP"] / len(drawn), 0.25),
        "double": (len(doubles) / len(jpegs), 0.5),
        "shifted": (np.mean(shifted), 0.5 * 63 / 64),
        "on the grid": (np.mean([o == [0, 0] for o in offsets]), 0.7 + 0.3 / 64),
    }
    for name, (found, wanted) in rates.items():
        assert found == pytest.approx(wanted, abs=0.05), name
    for sample in drawn:
        told = {"JPEG": 60, "WebP": -1, "none": 100}[sample["codec"].split(" ")[0]]
        first = sample["first_quality"]
        assert sample["quality"] == (min(told, first) if first > 0 else told)


def test_grey_crops_are_those_of_the_whole_grey_image(tmp_path, image):
    luma = np.asarray(Image.fromarray(image).convert("L"))
    for sample in samples(tmp_path, 8, grey=1):
        lq, gt = to_uint8(sample["lq"]), to_uint8(sample["gt"])
        assert sample["subsampling"] == "4:0:0"
        assert np.array_equal(lq, np.repeat(lq[..., :1], 3, 2))
        where = place(gt[..., 0], luma)
        assert np.array_equal(gt[..., 0], luma[where])
        assert np.array_equal(lq[..., 0], plain_jpeg(luma, sample["quality"])[where])


def test_drawn_crops_are_those_of_the_whole_page(tmp_path, image):
    drawn = samples(tmp_path, 12, drawn=1)
    assert len({s["gt_path"] for s in drawn}) == 12
    for sample in drawn:
        page = original_of(sample, image)
        lq, gt = to_uint8(sample["lq"]), to_uint8(sample["gt"])
        whole = plain_jpeg(page, sample["quality"])
        windows = [
            (slice(row, row + SIZE), slice(column, column + SIZE))
            for row in range(SIZE + 1)
            for column in range(SIZE + 1)
        ]  # flat parts of a page may look alike
        assert any(
            np.array_equal(page[where], gt) and np.array_equal(whole[where], lq)
            for where in windows
        )


def test_crops_of_another_codec_are_those_of_the_whole_image(tmp_path, image):
    other = [{"codec": "webp", "quality": 40, "probability": 1}]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=40)
    whole = np.asarray(Image.open(buffer))
    for sample in samples(tmp_path, 6, other_codecs=other):
        where = place(to_uint8(sample["gt"]), image)
        assert np.array_equal(to_uint8(sample["lq"]), whole[where])
        assert (sample["quality"], sample["codec"][:4]) == (-1, "WebP")


@pytest.mark.parametrize("grey", [0, 1])
def test_crops_that_are_not_compressed_are_the_original(tmp_path, image, grey):
    for sample in samples(tmp_path, 6, uncompressed=1, grey=grey):
        assert torch.equal(sample["lq"], sample["gt"])
        assert (sample["quality"], sample["codec"]) == (100, "none")


def test_aligned_crops_keep_the_grid_when_they_are_flipped(tmp_path, image):
    flips = {"use_hflip": True, "use_rot": True}
    for sample in samples(tmp_path, 20, align={"mcu": 1}, double={"quality": 50}, **flips):
        assert sample["block_offset"].tolist() == sample["first_block_offset"].tolist() == [0, 0]


def test_codec_data_set_has_the_shares_of_images(tmp_path, image):
    options = {"codec": "webp", "context": 0, "drawn": 0.5, "grey": 0.5}
    drawn = samples(tmp_path, 60, "CodecRestorationDataset", **options)
    assert {s["gt_path"].startswith("drawn") for s in drawn} == {True, False}
    assert {is_grey(s) for s in drawn if not s["gt_path"].startswith("drawn")} == {True, False}


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_of_all_kinds_collate_and_stay_8_bit(tmp_path, image, workers):
    options = {"dataroot_gt": str(tmp_path), "quality": 30, "gt_size": SIZE, **ALL_SHARES}
    order = [SampleIndex(0, 0, i) for i in range(32)]
    floats, integers = (
        next(
            iter(
                DataLoader(
                    make("JPEGRestorationDataset", **options, uint8=uint8),
                    32,
                    sampler=order,
                    num_workers=workers,
                )
            )
        )
        for uint8 in (False, True)
    )
    assert integers["lq"].dtype == integers["gt"].dtype == torch.uint8
    for key in ("lq", "gt"):
        assert torch.equal(floats[key], integers[key].float().div(255))
    assert torch.equal(floats["quality"], integers["quality"])


def test_drawn_pages_are_given_by_their_seed():
    pages = [drawn_page(seed, (40, 90)) for seed in range(6)]
    assert {page.shape for page in pages} == {(40, 90, 3)}
    assert len({page.tobytes() for page in pages}) == 6
    assert all(np.array_equal(page, drawn_page(i, (40, 90))) for i, page in enumerate(pages))
    assert drawn_page(3, (1, 1)).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": {"mcu": 1.5}}, r"datasets\.train\.align\.mcu: .*1\.5"),
        ({"align": {"mcu": "all"}}, r"datasets\.train\.align\.mcu"),
        ({"align": {"block": 0.5}}, r"datasets\.train\.align"),
        ({"grey": 2}, r"datasets\.train\.grey: .*2"),
        ({"grey": 0.5, "color": "y"}, r"grey needs color: rgb"),
        ({"drawn": -1}, r"datasets\.train\.drawn"),
        ({"other_codecs": [{**WEBP, "codec": "bmp"}]}, r"other_codecs\[0\]\.codec: .*bmp"),
        ({"other_codecs": [{**WEBP, "quality": 101}]}, r"other_codecs\[0\]\.quality: 101"),
        ({"other_codecs": [WEBP], "uncompressed": 0.8}, r"exceed 1"),
        ({"double": {"quality": 9, "tell": "first"}}, r"double\.tell: .*first"),
        ({"double": {"quality": 9, "shift_probability": 3}}, r"double\.shift_probability: .*3"),
        ({"phase": "val", "quality": 9, "drawn": 0.5}, r"drawn is for training"),
        ({"phase": "val", "quality": 9, "other_codecs": [WEBP]}, r"other_codecs is for training"),
        ({"phase": "val", "quality": 9, "uint8": True}, r"uint8 is for training"),
    ],
)
def test_bad_shares_are_named(tmp_path, image, options, message):
    with pytest.raises(OptionsError, match=message):
        samples(tmp_path, 0, **options)
